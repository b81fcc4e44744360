//! The least that an answer costs: every packet of it sealed and its header protected, and one packet of
//! its request opened, with the cipher suite that is negotiated. And the least that a full handshake costs
//! beside it: a key of its own (X25519), the agreement with the client's, a signature (ECDSA P-256).

use anyhow::{Context, Result};
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::crypto::aws_lc_rs::kx_group::X25519;
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::quic::{DirectionalKeys, Version};
use rustls::{Side, SignatureScheme};

use crate::cpu::of_this_thread;
use crate::identity::Identity;

/// The floor's name among the servers.
pub const NAME: &str = "crypto-floor";

/// UDP payload of a full packet, what its header and tag take, and the payload of a request's packet.
const PACKET: usize = 1_452;
const HEADER: usize = 1 + 8 + 4;
const TAG: usize = 16;
const REQUEST: usize = 64;
/// Of the answer's head.
const HEAD: usize = 160;
/// Header protection samples this many bytes.
const SAMPLE: usize = 16;

/// How often an answer is encrypted.
const ROUNDS: u32 = 20_000;
/// How often a handshake's agreement and signature are made.
const HANDSHAKES: u32 = 2_000;
/// Bytes that a server signs: 64 spaces, what the signature is for, and the hash of the handshake.
const SIGNED: usize = 64 + 34 + 48;

/// Processor seconds of an answer of `bytes`.
///
/// # Errors
/// A cryptography provider without the suite's keys for QUIC.
pub fn seconds(bytes: usize) -> Result<f64> {
    let rustls::SupportedCipherSuite::Tls13(suite) = TLS13_AES_128_GCM_SHA256 else {
        anyhow::bail!("the suite is one of TLS 1.3");
    };
    let suite = suite.quic_suite().context("the suite has QUIC keys")?;
    let keys = |side| suite.keys(b"12345678", side, Version::V1);
    let (server, client) = (keys(Side::Server), keys(Side::Client));
    let mut packet = vec![0x5a; PACKET];
    let mut request = vec![0; HEADER + REQUEST + TAG];
    seal(&client.local, 1, &mut request)?;
    let per_packet = PACKET - HEADER - TAG;
    let mut began = of_this_thread()?;
    for round in 0..2 * ROUNDS {
        if round == ROUNDS {
            began = of_this_thread()?;
        }
        let mut left = bytes + HEAD;
        while left > 0 {
            let payload = left.min(per_packet);
            seal(&server.local, 7, &mut packet[..HEADER + payload + TAG])?;
            left -= payload;
        }
        let mut copy = [0; HEADER + REQUEST + TAG];
        copy.copy_from_slice(&request);
        open(&server.remote, 1, &mut copy)?;
    }
    let spent = of_this_thread()?.saturating_sub(began);
    Ok(spent.as_secs_f64() / f64::from(ROUNDS))
}

/// Processor seconds of a full handshake's agreement and signature.
///
/// # Errors
/// A cryptography provider without them.
pub fn handshake_seconds() -> Result<f64> {
    let key = any_ecdsa_type(&Identity::new("edge.test")?.key)?;
    let signer = key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]);
    let signer = signer.context("the key is of P-256")?;
    let client = X25519.start()?.pub_key().to_vec();
    let mut began = of_this_thread()?;
    for round in 0..2 * HANDSHAKES {
        if round == HANDSHAKES {
            began = of_this_thread()?;
        }
        std::hint::black_box(X25519.start()?.complete(&client)?);
        std::hint::black_box(signer.sign(&[0x20; SIGNED])?);
    }
    let spent = of_this_thread()?.saturating_sub(began);
    Ok(spent.as_secs_f64() / f64::from(HANDSHAKES))
}

fn seal(keys: &DirectionalKeys, number: u64, packet: &mut [u8]) -> Result<()> {
    let (header, rest) = packet.split_at_mut(HEADER);
    let (payload, tag) = rest.split_at_mut(rest.len() - TAG);
    let made = keys.packet.encrypt_in_place(number, header, payload)?;
    tag.copy_from_slice(made.as_ref());
    let (first, numbers) = header.split_at_mut(HEADER - 4);
    let sample = &rest[..SAMPLE];
    keys.header
        .encrypt_in_place(sample, &mut first[0], numbers)?;
    Ok(())
}

fn open(keys: &DirectionalKeys, number: u64, packet: &mut [u8]) -> Result<()> {
    let (header, rest) = packet.split_at_mut(HEADER);
    let (first, numbers) = header.split_at_mut(HEADER - 4);
    keys.header
        .decrypt_in_place(&rest[..SAMPLE], &mut first[0], numbers)?;
    keys.packet.decrypt_in_place(number, header, rest)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_encrypted_and_its_request_decrypted() {
        assert!(seconds(1 << 10).expect("keys that fit") > 0.0);
    }

    #[test]
    fn a_handshake_is_agreed_and_signed() {
        assert!(handshake_seconds().expect("a provider that has both") > 0.0);
    }
}
