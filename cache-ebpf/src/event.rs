//! What an operator is shown of a packet that a rule matched.

use core::net::IpAddr;

use crate::{packet::Packet, parse::Source, rule::Rule, verdict::Seen};

/// Bytes of the ring between program and daemon: some thousand events.
pub const EVENTS_BYTES: u32 = 1 << 18;

/// Payload bytes in an event.
pub const FIRST_BYTES: usize = 32;

/// One sampled packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub rule: u32,
    /// 1 when it was dropped, 0 when it was only counted.
    pub dropped: u32,
    high: u64,
    low: u64,
    v6: u16,
    /// The ports are 0 where the packet is not for a served port.
    pub source_port: u16,
    pub destination_port: u16,
    /// Bytes of UDP payload; of TCP, from its header on.
    pub length: u16,
    /// The first bytes of the payload; of one that is shorter than this, eight or none, and zeros.
    pub first: [u8; FIRST_BYTES],
}

impl Event {
    /// What was seen of `packet` when a rule matched it, if that is to be told.
    #[inline(always)]
    pub fn new(packet: &Packet<'_>, seen: &Seen) -> Option<Self> {
        let told = seen.told?;
        let mut event = Self {
            rule: told.rule as u32,
            dropped: told.dropped as u32,
            high: seen.source.high,
            low: seen.source.low,
            v6: seen.source.v6 as u16,
            source_port: if seen.segment.length > 0 {
                seen.segment.source
            } else {
                0
            },
            destination_port: if seen.segment.length > 0 {
                seen.segment.destination
            } else {
                0
            },
            length: seen.segment.length as u16,
            first: [0; FIRST_BYTES],
        };
        if let Some(bytes) = seen.segment.read::<FIRST_BYTES>(packet, 0) {
            event.first = bytes;
        } else if let Some(bytes) = seen.segment.read::<8>(packet, 0) {
            let [a, b, c, d, e, f, g, h] = bytes;
            let mut first = [0; FIRST_BYTES];
            [first[0], first[1], first[2], first[3]] = [a, b, c, d];
            [first[4], first[5], first[6], first[7]] = [e, f, g, h];
            event.first = first;
        }
        Some(event)
    }

    pub fn source(&self) -> IpAddr {
        let (v6, high, low) = (self.v6 != 0, self.high, self.low);
        Source { v6, high, low }.into()
    }

    /// The rule, if this library knows its number.
    pub fn rule(&self) -> Option<Rule> {
        Rule::ALL.get(self.rule as usize).copied()
    }

    /// What lies in the ring; `None` when it has another size.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; size_of::<Self>()] = bytes.try_into().ok()?;
        let u64_at = |at: usize| Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        let u32_at = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        let u16_at = |at: usize| Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        Some(Self {
            rule: u32_at(0)?,
            dropped: u32_at(4)?,
            high: u64_at(8)?,
            low: u64_at(16)?,
            v6: u16_at(24)?,
            source_port: u16_at(26)?,
            destination_port: u16_at(28)?,
            length: u16_at(30)?,
            first: *bytes.last_chunk()?,
        })
    }
}

const _: () = assert!(size_of::<Event>() == 32 + FIRST_BYTES);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{parse::Segment, verdict::Told};

    #[test]
    fn an_event_survives_the_ring() {
        let source = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 7]);
        let mut seen = Seen::NOTHING;
        seen.source = source.into();
        seen.segment = Segment {
            source: 1234,
            destination: 443,
            payload: 4,
            length: 18,
        };
        seen.told = Some(Told {
            rule: Rule::CidMac,
            dropped: true,
        });
        let packet: [u8; 22] = core::array::from_fn(|i| i as u8);
        let event = Event::new(&Packet::new(&packet), &seen).expect("told");
        // SAFETY: plain integers without padding (see the size assertion).
        let bytes = unsafe { core::mem::transmute::<Event, [u8; size_of::<Event>()]>(event) };
        let read = Event::from_bytes(&bytes).expect("whole");
        assert_eq!(read, event);
        assert_eq!((read.source(), read.rule()), (source, Some(Rule::CidMac)));
        assert_eq!(read.first[..8], packet[4..12]);
        assert_eq!(read.first[8..], [0; 24]);
        assert_eq!(Event::from_bytes(&bytes[1..]), None);
    }
}
