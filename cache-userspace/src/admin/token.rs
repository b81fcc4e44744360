//! The bearer token of the admin API over TCP.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// A secret. Compared in constant time, never printed.
#[derive(Clone)]
pub struct Token(String);

/// Fewest characters of a token: 16 random base64 characters are 96 bits.
pub const MIN_TOKEN: usize = 16;

/// Most characters of a token.
const MAX_TOKEN: usize = 512;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("cannot read {path}: {source}")]
    Unreadable {
        path: String,
        source: std::io::Error,
    },
    #[error("{path} can be read by everyone (mode {mode:04o}): chmod 600 {path}")]
    Open { path: String, mode: u32 },
    #[error(
        "{path} holds a token of {length} characters; it needs {MIN_TOKEN} to {MAX_TOKEN}: openssl rand -base64 32 > {path}"
    )]
    Length { path: String, length: usize },
    #[error(
        "{path} holds a character that cannot stand in a header; use letters, digits and +/=-._~"
    )]
    Characters { path: String },
}

impl Token {
    /// Reads a token from a file (white space around it is ignored).
    pub fn load(path: &Path) -> Result<Self, TokenError> {
        let name = || path.display().to_string();
        let unreadable = |source| TokenError::Unreadable {
            path: name(),
            source,
        };
        let mode = fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o7777;
        if mode & 0o007 != 0 {
            return Err(TokenError::Open { path: name(), mode });
        }
        let text = fs::read_to_string(path).map_err(unreadable)?;
        let token = text.trim();
        if !(MIN_TOKEN..=MAX_TOKEN).contains(&token.len()) {
            return Err(TokenError::Length {
                path: name(),
                length: token.len(),
            });
        }
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"+/=-._~".contains(&b);
        if !token.bytes().all(legal) {
            return Err(TokenError::Characters { path: name() });
        }
        Ok(Self(token.to_owned()))
    }

    /// Whether an Authorization field carries this token (RFC 6750 section 2.1).
    pub fn authorizes(&self, field: &[u8]) -> bool {
        let Some((scheme, credential)) = field.split_at_checked(7) else {
            return false;
        };
        scheme.eq_ignore_ascii_case(b"Bearer ")
            && aws_lc_rs::constant_time::verify_slices_are_equal(credential, self.0.as_bytes())
                .is_ok()
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        fs::write(file.path(), text).expect("write");
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).expect("chmod");
        file
    }

    #[test]
    fn only_the_right_token_authorizes() {
        let file = write("correct-horse-battery\n", 0o600);
        let token = Token::load(file.path()).expect("a good token");
        assert!(token.authorizes(b"Bearer correct-horse-battery"));
        assert!(token.authorizes(b"bearer correct-horse-battery"));
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer correct-horse-batter",
            "Bearer correct-horse-battery ",
            "Bearer correct-horse-batterY",
            "Basic correct-horse-battery",
        ] {
            assert!(!token.authorizes(wrong.as_bytes()), "{wrong:?}");
        }
        assert_eq!(format!("{token:?}"), "Token(..)");
    }

    #[test]
    fn bad_files_say_what_to_do() {
        for (text, mode, why) in [
            ("correct-horse-battery", 0o644, "chmod 600"),
            ("correct-horse-battery", 0o602, "chmod 600"),
            ("short", 0o600, "openssl rand"),
            ("", 0o600, "openssl rand"),
            ("correct horse battery", 0o600, "character"),
        ] {
            let file = write(text, mode);
            let error = Token::load(file.path()).expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
        }
        let missing = Token::load(Path::new("/nonexistent/token")).expect_err("missing");
        assert!(missing.to_string().contains("cannot read"));
    }
}
