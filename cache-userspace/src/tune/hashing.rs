//! Which fields of a packet choose its queue, and the table that hashes are looked up in.
//!
//! By ioctl: netlink changes neither before Linux 6.17.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;

const SIOCETHTOOL: libc::c_ulong = 0x8946;

const GET_HASH: u32 = 0x29;
const SET_HASH: u32 = 0x2a;
const GET_TABLE: u32 = 0x38;
const SET_TABLE: u32 = 0x39;

const UDP_V4: u32 = 0x02;
const UDP_V6: u32 = 0x06;

/// Fields by their letters, as ethtool(8) has them: source and destination address, first and last two bytes of
/// layer 4, which are the ports.
const FIELDS: [(char, u64); 4] = [('s', 1 << 4), ('d', 1 << 5), ('f', 1 << 6), ('n', 1 << 7)];

/// `struct ethtool_rxnfc`, with room for what this does not use.
#[repr(C, align(8))]
struct Hash {
    command: u32,
    flow: u32,
    fields: u64,
    unused: [u64; 32],
}

/// `struct ethtool_rxfh_indir` with the largest table that there is.
#[repr(C)]
struct Table {
    command: u32,
    size: u32,
    queues: [u32; MOST_ENTRIES],
}

const MOST_ENTRIES: usize = 4_096;

#[repr(C)]
struct Request {
    interface: [u8; libc::IFNAMSIZ],
    data: *mut libc::c_void,
    unused: [u64; 2],
}

fn flow_of(setting: &str) -> Option<u32> {
    match setting {
        "flow-hash/udp4" => Some(UDP_V4),
        "flow-hash/udp6" => Some(UDP_V6),
        _ => None,
    }
}

/// `flow-hash/udp4`, `flow-hash/udp6` or `rss/table`; `None` for another setting.
pub fn read(interface: &str, setting: &str) -> Option<io::Result<String>> {
    if setting == "rss/table" {
        return Some(read_table(interface).map(|table| show_table(&table)));
    }
    let mut hash = Hash::new(GET_HASH, flow_of(setting)?);
    Some(ask(interface, &mut hash).and_then(|()| show_fields(hash.fields)))
}

/// The same to be written.
pub fn write(interface: &str, setting: &str, value: &str) -> Option<io::Result<()>> {
    if setting == "rss/table" {
        return Some(write_table(interface, value));
    }
    let mut hash = Hash::new(SET_HASH, flow_of(setting)?);
    hash.fields = parse_fields(value);
    Some(ask(interface, &mut hash))
}

fn show_fields(fields: u64) -> io::Result<String> {
    let letters: String = FIELDS
        .iter()
        .filter(|(_, bit)| fields & bit != 0)
        .map(|(letter, _)| *letter)
        .collect();
    match letters.is_empty() {
        // All packets of this kind go to one queue, or are dropped.
        true => Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
        false => Ok(letters),
    }
}

fn parse_fields(letters: &str) -> u64 {
    let chosen = FIELDS
        .iter()
        .filter(|(letter, _)| letters.contains(*letter));
    chosen.map(|(_, bit)| bit).sum()
}

fn read_table(interface: &str) -> io::Result<Vec<u32>> {
    let mut table = Box::new(Table::new(GET_TABLE));
    ask(interface, &mut *table)?;
    // Asked with no room, the kernel says how much it takes.
    let size = table.size as usize;
    if size == 0 || size > MOST_ENTRIES {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    table.command = GET_TABLE;
    ask(interface, &mut *table)?;
    Ok(table.queues[..size].to_vec())
}

fn write_table(interface: &str, value: &str) -> io::Result<()> {
    let size = read_table(interface)?.len();
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    let mut table = Box::new(Table::new(SET_TABLE));
    table.size = size as u32;
    let queues = parse_table(value, size).ok_or_else(invalid)?;
    table.queues[..size].copy_from_slice(&queues);
    ask(interface, &mut *table)
}

/// `equal 4` where queues take turns, else every entry.
fn show_table(table: &[u32]) -> String {
    let queues = table.iter().max().map_or(1, |last| last + 1);
    let equal = |(entry, queue): (usize, &u32)| entry as u32 % queues == *queue;
    if table.iter().enumerate().all(equal) {
        return format!("equal {queues}");
    }
    let entries: Vec<String> = table.iter().map(u32::to_string).collect();
    entries.join(",")
}

fn parse_table(text: &str, size: usize) -> Option<Vec<u32>> {
    if let Some(queues) = text.strip_prefix("equal ") {
        let queues: u32 = queues.parse().ok().filter(|queues| *queues > 0)?;
        return Some((0..size as u32).map(|entry| entry % queues).collect());
    }
    let table: Option<Vec<u32>> = text.split(',').map(|queue| queue.parse().ok()).collect();
    table.filter(|table| table.len() == size)
}

impl Hash {
    fn new(command: u32, flow: u32) -> Self {
        Self {
            command,
            flow,
            fields: 0,
            unused: [0; 32],
        }
    }
}

impl Table {
    fn new(command: u32) -> Self {
        Self {
            command,
            size: 0,
            queues: [0; MOST_ENTRIES],
        }
    }
}

/// One of the two structures above, of which the kernel knows the size by the command in it.
trait Command {}
impl Command for Hash {}
impl Command for Table {}

fn ask<T: Command>(interface: &str, command: &mut T) -> io::Result<()> {
    let mut name = [0; libc::IFNAMSIZ];
    let bytes = interface.as_bytes();
    if bytes.len() >= name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    name[..bytes.len()].copy_from_slice(bytes);
    let mut request = Request {
        interface: name,
        data: std::ptr::from_mut(command).cast(),
        unused: [0; 2],
    };
    // Any socket will do; it belongs to the namespace of the interface.
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: `request` has the layout of `struct ifreq` with a pointer to a structure that outlives the call and is at least
    // as large as what the kernel reads and writes for its command: `Hash` is larger than `ethtool_rxnfc`, and a `Table`
    // has room for as many entries as its size says, which the callers keep below MOST_ENTRIES.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_letters() {
        assert_eq!(parse_fields("sdfn"), 0xf0);
        assert_eq!(show_fields(0x30).expect("fields"), "sd");
        show_fields(0).expect_err("nothing is hashed");
    }

    #[test]
    fn a_table_in_turns_is_said_shortly() {
        assert_eq!(show_table(&[0, 1, 2, 0, 1, 2, 0, 1]), "equal 3");
        assert_eq!(show_table(&[0, 0, 1, 1]), "0,0,1,1");
        assert_eq!(parse_table("equal 3", 4), Some(vec![0, 1, 2, 0]));
        assert_eq!(parse_table("0,0,1,1", 4), Some(vec![0, 0, 1, 1]));
        assert_eq!(parse_table("0,0,1", 4), None);
        assert_eq!(parse_table("equal 0", 4), None);
    }
}
