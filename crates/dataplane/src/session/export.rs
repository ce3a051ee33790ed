//! What an export offers, from what its disk is.

use block::Geometry;
use units::Mode;
use wire::nbd::constant::PAYLOAD_MAX;
use wire::nbd::{BlockSizes, ExportInfo, TransmissionFlags};

/// What is told about a disk of this shape to a client that attaches in this mode.
pub fn export_info(geometry: Geometry, mode: Mode) -> ExportInfo {
    let always = [
        TransmissionFlags::SEND_FLUSH,
        TransmissionFlags::SEND_FUA,
        TransmissionFlags::SEND_TRIM,
        TransmissionFlags::SEND_WRITE_ZEROES,
        // A flush covers every answered write of the volume, whichever connection it came by: the array has one cache.
        TransmissionFlags::CAN_MULTI_CONN,
    ];
    let flags = always.into_iter().fold(TransmissionFlags::HAS_FLAGS, TransmissionFlags::with);
    let flags = if mode == Mode::Ro { flags.with(TransmissionFlags::READ_ONLY) } else { flags };
    let preferred = geometry.optimal_bytes.next_power_of_two().clamp(geometry.block_bytes.max(512), PAYLOAD_MAX);
    let block = BlockSizes { min: geometry.block_bytes, preferred, max: PAYLOAD_MAX };
    ExportInfo { size: geometry.size, flags, block, name: None, description: None }
}
