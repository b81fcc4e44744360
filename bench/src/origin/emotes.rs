//! Emote-like pictures: small colourful glyphs as real PNG files of 1 to 8 KB.
//!
//! Emote `n` is drawn from `n` alone. Its size class is drawn first, evenly over the range, then
//! the canvas is adjusted until the encoded file falls inside: busy pictures shrink, plain
//! ones grow or gain grain, which is also how real emotes differ.

use anyhow::{Context, Result};

use super::body::mix;

/// Emote numbers are below this.
pub const MAX_EMOTES: u32 = 1_000_000;
/// Smallest file, bytes.
pub const MIN_FILE: usize = 1024;
/// Largest file, bytes.
pub const MAX_FILE: usize = 8192;

/// Steps of the search for a canvas whose file has the wanted size.
const MAX_STEPS: u32 = 12;
const MIN_SIDE: u32 = 18;
const MAX_SIDE: u32 = 128;

/// The PNG file of emote `n`, [`MIN_FILE`] to [`MAX_FILE`] bytes long.
pub fn draw(n: u32) -> Vec<u8> {
    let mut dice = Dice(mix(u64::from(n) ^ 0x00e3_07e5));
    let wanted = MIN_FILE + 256 + dice.below((MAX_FILE - MIN_FILE - 512) as u32) as usize;
    let glyph = Glyph::roll(&mut dice);
    let (mut low, mut high) = (MIN_SIDE, MAX_SIDE);
    let mut best: Option<Vec<u8>> = None;
    for _ in 0..MAX_STEPS {
        let side = low.midpoint(high);
        let file = encode(side, &glyph.paint(side)).expect("a canvas in memory is always encoded");
        if file.len() > wanted {
            high = side.saturating_sub(1);
        } else {
            low = side + 1;
        }
        let fits = (MIN_FILE..=MAX_FILE).contains(&file.len());
        let nearer = best
            .as_ref()
            .is_none_or(|b| b.len().abs_diff(wanted) > file.len().abs_diff(wanted));
        if fits && nearer {
            best = Some(file);
        }
        if low > high {
            break;
        }
    }
    best.expect("file size grows with the canvas through the whole range")
}

/// A face-like figure: background, disc, two eyes, a mouth, and film grain.
struct Glyph {
    background: [u8; 3],
    disc: [u8; 3],
    ink: [u8; 3],
    eye_gap: i32,
    eye_size: i32,
    mouth: i32,
    wave: i32,
    grain: u32,
    seed: u64,
}

impl Glyph {
    fn roll(dice: &mut Dice) -> Self {
        Self {
            background: dice.colour(),
            disc: dice.colour(),
            ink: dice.colour(),
            eye_gap: 20 + dice.below(25) as i32,
            eye_size: 6 + dice.below(12) as i32,
            mouth: 15 + dice.below(30) as i32,
            wave: dice.below(40) as i32 - 20,
            grain: 6 + dice.below(10),
            seed: dice.next(),
        }
    }

    /// RGBA pixels of a square canvas of `side` pixels.
    fn paint(&self, side: u32) -> Vec<u8> {
        let mut pixels = Vec::with_capacity((side * side * 4) as usize);
        for y in 0..side {
            for x in 0..side {
                pixels.extend_from_slice(&self.pixel(x, y, side));
            }
        }
        pixels
    }

    fn pixel(&self, x: u32, y: u32, side: u32) -> [u8; 4] {
        // Coordinates from -100 to 100 whatever the canvas.
        let u = (x * 200 / side) as i32 - 100;
        let v = (y * 200 / side) as i32 - 100;
        let from_centre = u * u + v * v;
        if from_centre > 96 * 96 {
            return [0, 0, 0, 0];
        }
        let colour = if self.is_ink(u, v) {
            self.ink
        } else if from_centre > 82 * 82 {
            self.background
        } else {
            self.disc
        };
        let noise = mix(self.seed ^ u64::from(y * side + x));
        let light = (100 - v) / 8;
        let shade = |c: u8, i: u32| {
            let grain = ((noise >> (i * 16)) as u32 % self.grain) as i32;
            (i32::from(c) + light + grain).clamp(0, 255) as u8
        };
        [
            shade(colour[0], 0),
            shade(colour[1], 1),
            shade(colour[2], 2),
            255,
        ]
    }

    fn is_ink(&self, u: i32, v: i32) -> bool {
        let eye = |centre: i32| (u - centre).pow(2) + (v + 25).pow(2) < self.eye_size.pow(2);
        let curve = 35 + self.wave * (u * u) / (60 * 60);
        let mouth = u.abs() < self.mouth && (v - curve).abs() < 7;
        eye(-self.eye_gap) || eye(self.eye_gap) || mouth
    }
}

fn encode(side: u32, pixels: &[u8]) -> Result<Vec<u8>> {
    let mut file = Vec::with_capacity(MAX_FILE);
    let mut encoder = png::Encoder::new(&mut file, side, side);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder
        .write_header()
        .context("cannot write a PNG header")?;
    writer
        .write_image_data(pixels)
        .context("cannot write PNG pixels")?;
    writer.finish().context("cannot finish a PNG file")?;
    Ok(file)
}

/// A stream of numbers from one seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    fn below(&mut self, n: u32) -> u32 {
        (self.next() % u64::from(n)) as u32
    }

    fn colour(&mut self) -> [u8; 3] {
        let n = self.next();
        [n as u8, (n >> 8) as u8, (n >> 16) as u8]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_decode_and_spread_over_the_range() {
        let sizes: Vec<usize> = (0..300).map(decoded_size).collect();
        assert!(sizes.iter().all(|s| (MIN_FILE..=MAX_FILE).contains(s)));
        for class in 1..8 {
            let inside = |s: &&usize| (class * 1024..(class + 1) * 1024).contains(*s);
            assert!(
                sizes.iter().filter(inside).count() >= 10,
                "few files of {class} KB"
            );
        }
    }

    /// Decodes the picture with its checksums and gives its length as a file.
    fn decoded_size(n: u32) -> usize {
        let file = draw(n);
        let mut reader = png::Decoder::new(std::io::Cursor::new(&file))
            .read_info()
            .expect("a PNG header");
        let mut pixels = vec![0; reader.output_buffer_size().expect("a small picture")];
        let frame = reader
            .next_frame(&mut pixels)
            .expect("pixels with right checksums");
        assert!((MIN_SIDE..=MAX_SIDE).contains(&frame.width));
        file.len()
    }

    #[test]
    fn numbers_give_different_pictures() {
        let mut files: Vec<Vec<u8>> = (0..100).map(draw).collect();
        files.sort();
        files.dedup();
        assert_eq!(files.len(), 100);
    }
}
