//! What an export offers, from what its disk is.

use block::Geometry;
use units::Mode;
use wire::nbd::constant::PAYLOAD_MAX;
use wire::nbd::{BlockSizes, ExportInfo, TransmissionFlags};

/// Over how many connections a client may use an export at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    /// A stock client of the target: what is under way on a connection that went silent could land after what the
    /// client wrote over another one meanwhile (docs/rfd/0003-gate.md, rule 9). muskox's initiator needs no offer.
    One,
    /// Within a machine, where a connection does not go silent while its client lives.
    Many,
}

/// What is told about a disk of this shape to a client that attaches in this mode.
pub fn export_info(geometry: Geometry, mode: Mode, connections: Connections) -> ExportInfo {
    let always = [
        TransmissionFlags::SEND_FLUSH,
        TransmissionFlags::SEND_FUA,
        TransmissionFlags::SEND_TRIM,
        TransmissionFlags::SEND_WRITE_ZEROES,
    ];
    let flags = always.into_iter().fold(TransmissionFlags::HAS_FLAGS, TransmissionFlags::with);
    let flags = if mode == Mode::Ro { flags.with(TransmissionFlags::READ_ONLY) } else { flags };
    // A flush covers every answered write, whichever connection it came by: the volume has one cache.
    let many = connections == Connections::Many;
    let flags = if many { flags.with(TransmissionFlags::CAN_MULTI_CONN) } else { flags };
    let preferred = geometry.optimal_bytes.next_power_of_two().clamp(geometry.block_bytes.max(512), PAYLOAD_MAX);
    let block = BlockSizes { min: geometry.block_bytes, preferred, max: PAYLOAD_MAX };
    ExportInfo { size: geometry.size, flags, block, name: None, description: None }
}
