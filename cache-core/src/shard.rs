//! The only sequencer: takes one input at a time and calls everything else.

/// What shards say to each other. Opaque to the shell, which only carries it.
#[derive(Debug)]
pub enum LaneMessage {
    /// A datagram whose connection id names the receiving shard.
    Datagram(crate::io::Datagram),
}
