//! ethtool's netlink family: queues, rings, coalescing and features of a NIC.
//!
//! One message type for all of it: a command, and attributes as the kernel numbers them
//! (`linux/ethtool_netlink_generated.h`). The crate `ethtool` reads the same, but changes queues alone.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt as _;
use genetlink::{GenetlinkHandle, new_connection};
use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
    ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use tokio::runtime::Runtime;

/// Attributes that hold others.
const NESTED: u16 = 1 << 15;
const KIND: u16 = !(3 << 14);

/// The header of every message, and what is in it.
const HEADER: u16 = 1;
const DEVICE_NAME: u16 = 2;
const FLAGS: u16 = 3;
/// No account of what was changed.
const OMIT_REPLY: u32 = 2;

const FEATURES_GET: u8 = 11;
const FEATURES_SET: u8 = 12;
const FEATURES_CHANGEABLE: u16 = 2;
const FEATURES_WANTED: u16 = 3;
const FEATURES_ACTIVE: u16 = 4;
const BITS: u16 = 3;
const BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;

/// How an attribute's value is written.
#[derive(Clone, Copy)]
enum Form {
    Number,
    Switch,
}

/// A group of settings: its messages, and its attributes with their greatest values where it has those.
struct Group {
    name: &'static str,
    get: u8,
    set: u8,
    settings: &'static [Attribute],
}

struct Attribute {
    name: &'static str,
    kind: u16,
    most: Option<u16>,
    form: Form,
}

const fn number(name: &'static str, kind: u16, most: Option<u16>) -> Attribute {
    let form = Form::Number;
    Attribute {
        name,
        kind,
        most,
        form,
    }
}

const fn switch(name: &'static str, kind: u16) -> Attribute {
    let (most, form) = (None, Form::Switch);
    Attribute {
        name,
        kind,
        most,
        form,
    }
}

const GROUPS: [Group; 3] = [
    Group {
        name: "channels",
        get: 17,
        set: 18,
        settings: &[
            number("rx", 6, Some(2)),
            number("tx", 7, Some(3)),
            number("combined", 9, Some(5)),
        ],
    },
    Group {
        name: "ring",
        get: 15,
        set: 16,
        settings: &[number("rx", 6, Some(2)), number("tx", 9, Some(5))],
    },
    Group {
        name: "coalesce",
        get: 19,
        set: 20,
        settings: &[
            number("rx-usecs", 2, None),
            number("tx-usecs", 6, None),
            switch("adaptive-rx", 11),
            switch("adaptive-tx", 12),
        ],
    },
];

/// What was read of a NIC.
#[derive(Debug, Default)]
pub struct Found {
    pub settings: BTreeMap<String, String>,
    pub most: BTreeMap<String, u64>,
    pub fixed: BTreeSet<String>,
    pub missing: BTreeMap<String, String>,
}

/// A connection to the kernel.
pub struct Ethtool {
    runtime: Runtime,
    handle: GenetlinkHandle,
}

impl Ethtool {
    pub fn open() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let (connection, handle, _) = runtime.block_on(async { new_connection() })?;
        runtime.spawn(connection);
        Ok(Self { runtime, handle })
    }

    /// Everything of an interface, under names such as `ring/rx`.
    pub fn read(&mut self, interface: &str) -> Found {
        let mut found = Found::default();
        for group in &GROUPS {
            match self.ask(group.get, header(interface, 0), false) {
                Ok(reply) => note(group, &reply, &mut found),
                Err(reason) => drop(found.missing.insert(group.name.to_owned(), reason)),
            }
        }
        match self.ask(FEATURES_GET, header(interface, 0), false) {
            Ok(reply) => note_features(&reply, &mut found),
            Err(reason) => drop(found.missing.insert("feature".to_owned(), reason)),
        }
        found
    }

    /// `None` when the setting is of another kind.
    pub fn write(
        &mut self,
        interface: &str,
        setting: &str,
        value: &str,
    ) -> Option<Result<(), String>> {
        let (group, name) = setting.split_once('/')?;
        let (command, attribute) = if group == "feature" {
            (FEATURES_SET, feature(name, value == "on"))
        } else {
            let group = GROUPS.iter().find(|one| one.name == group)?;
            let attribute = group.settings.iter().find(|one| one.name == name)?;
            match encode(attribute, value) {
                Some(bytes) => (group.set, bytes),
                None => return Some(Err(format!("{value:?} is not a value"))),
            }
        };
        let mut message = header(interface, OMIT_REPLY);
        message.extend(attribute);
        Some(self.ask(command, message, true).map(drop))
    }

    fn ask(
        &mut self,
        command: u8,
        bytes: Vec<u8>,
        only_acknowledged: bool,
    ) -> Result<Vec<u8>, String> {
        let payload = GenlMessage::from_payload(Message { command, bytes });
        let mut message = NetlinkMessage::from(payload);
        message.header.flags = NLM_F_REQUEST | if only_acknowledged { NLM_F_ACK } else { 0 };
        let handle = &mut self.handle;
        self.runtime.block_on(async {
            let replies = handle.request(message).await;
            let mut replies = replies.map_err(|error| error.to_string())?;
            let mut answer = Vec::new();
            while let Some(reply) = replies.next().await {
                match reply.map_err(|error| error.to_string())?.payload {
                    NetlinkPayload::InnerMessage(inner) => answer = inner.payload.bytes,
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(reason(&error.to_io()));
                    }
                    _ => {}
                }
            }
            Ok(answer)
        })
    }
}

/// An error of the kernel in words for someone who asked a driver.
pub fn reason(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => "the driver cannot".to_owned(),
        Some(libc::EPERM | libc::EACCES) => "not permitted (CAP_NET_ADMIN)".to_owned(),
        Some(libc::EINVAL) => "the driver takes no such value".to_owned(),
        Some(libc::EBUSY) => {
            "the driver is busy (an AF_XDP socket is open, or another program changes it)"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

fn note(group: &Group, reply: &[u8], found: &mut Found) {
    let values: BTreeMap<u16, &[u8]> = attributes(reply).collect();
    let number = |kind: u16| values.get(&kind).and_then(|value| number_of(value));
    for attribute in group.settings {
        let name = format!("{}/{}", group.name, attribute.name);
        let most = attribute.most.map(|kind| number(kind).unwrap_or(0));
        if let Some(value) = number(attribute.kind)
            && most != Some(0)
        {
            let text = match attribute.form {
                Form::Number => value.to_string(),
                Form::Switch => on_or_off(value != 0).to_owned(),
            };
            found.settings.insert(name.clone(), text);
            found.most.extend(most.map(|most| (name, most)));
        }
    }
}

fn note_features(reply: &[u8], found: &mut Found) {
    let sets: BTreeMap<u16, &[u8]> = attributes(reply).collect();
    let bits = |kind: u16| -> Vec<(String, bool)> {
        let set = sets.get(&kind).copied().unwrap_or_default();
        let bits = attributes(set).filter(|(kind, _)| *kind == BITS);
        bits.flat_map(|(_, bits)| attributes(bits).collect::<Vec<_>>())
            .filter_map(|(_, bit)| named_bit(bit))
            .collect()
    };
    let active: BTreeSet<String> = bits(FEATURES_ACTIVE)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    for (name, is_changeable) in bits(FEATURES_CHANGEABLE) {
        let setting = format!("feature/{name}");
        let value = on_or_off(active.contains(&name));
        found.settings.insert(setting.clone(), value.to_owned());
        if !is_changeable {
            found.fixed.insert(setting);
        }
    }
}

fn named_bit(bit: &[u8]) -> Option<(String, bool)> {
    let parts: BTreeMap<u16, &[u8]> = attributes(bit).collect();
    let name = parts.get(&BIT_NAME)?;
    let name = String::from_utf8_lossy(name)
        .trim_end_matches('\0')
        .to_owned();
    // Numbers that no feature has any more have no name.
    (!name.is_empty()).then(|| (name, parts.contains_key(&BIT_VALUE)))
}

fn on_or_off(is_on: bool) -> &'static str {
    if is_on { "on" } else { "off" }
}

fn number_of(value: &[u8]) -> Option<u64> {
    match value {
        [byte] => Some(u64::from(*byte)),
        _ => Some(u64::from(u32::from_ne_bytes(value.try_into().ok()?))),
    }
}

fn encode(attribute: &Attribute, value: &str) -> Option<Vec<u8>> {
    let bytes = match attribute.form {
        Form::Number => value.parse::<u32>().ok()?.to_ne_bytes().to_vec(),
        Form::Switch => vec![u8::from(value == "on")],
    };
    Some(emit(attribute.kind, &bytes))
}

/// One feature, and no other.
fn feature(name: &str, is_on: bool) -> Vec<u8> {
    let mut bit = emit(BIT_NAME, format!("{name}\0").as_bytes());
    if is_on {
        bit.extend(emit(BIT_VALUE, &[]));
    }
    let bits = emit(BITS | NESTED, &emit(BIT | NESTED, &bit));
    emit(FEATURES_WANTED | NESTED, &bits)
}

fn header(interface: &str, flags: u32) -> Vec<u8> {
    let mut inner = emit(DEVICE_NAME, format!("{interface}\0").as_bytes());
    if flags != 0 {
        inner.extend(emit(FLAGS, &flags.to_ne_bytes()));
    }
    emit(HEADER | NESTED, &inner)
}

/// Length, kind, value, and zeros up to a multiple of four.
fn emit(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The attributes in `bytes`, up to the first that is torn.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [l0, l1, k0, k1, ..] = *bytes else {
            return None;
        };
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & KIND, value))
    })
}

#[derive(Debug)]
struct Message {
    command: u8,
    bytes: Vec<u8>,
}

impl GenlFamily for Message {
    fn family_name() -> &'static str {
        "ethtool"
    }

    fn command(&self) -> u8 {
        self.command
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Message {
    fn buffer_len(&self) -> usize {
        self.bytes.len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        buffer[..self.bytes.len()].copy_from_slice(&self.bytes);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Message {
    fn parse_with_param(bytes: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        Ok(Self {
            command: header.cmd,
            bytes: bytes.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_are_written() {
        let mut bytes = emit(5, &7u32.to_ne_bytes());
        bytes.extend(emit(6 | NESTED, b"abc"));
        let read: Vec<_> = attributes(&bytes).collect();
        assert_eq!(read, [(5, &7u32.to_ne_bytes()[..]), (6, &b"abc"[..])]);
        assert_eq!(attributes(&bytes[..13]).count(), 1);
        assert_eq!(attributes(&[9, 0, 1]).count(), 0);
        // A length below that of its own header ends the reading.
        assert_eq!(attributes(&[2, 0, 1, 0, 0, 0, 0, 0]).count(), 0);
    }

    #[test]
    fn a_group_without_room_is_not_there() {
        let mut reply = emit(2, &0u32.to_ne_bytes());
        reply.extend(emit(6, &0u32.to_ne_bytes()));
        reply.extend(emit(5, &8u32.to_ne_bytes()));
        reply.extend(emit(9, &2u32.to_ne_bytes()));
        let mut found = Found::default();
        note(&GROUPS[0], &reply, &mut found);
        let settings: Vec<_> = found.settings.iter().collect();
        assert_eq!(
            settings,
            [(&"channels/combined".to_owned(), &"2".to_owned())]
        );
        assert_eq!(found.most["channels/combined"], 8);
    }
}
