//! Lines out of a stream that is split anyhow.

use super::QmpError;

/// The longest line of a monitor. The longest we ask for is `query-blockstats`, about 4 KiB a disk.
pub const LINE_MAX: usize = 1 << 20;

/// Gathers a line; memory follows what arrived and never exceeds [`LINE_MAX`].
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    /// Takes from `input` up to the next line's end; the line, without its end, once it is whole.
    pub(super) fn next(&mut self, input: &mut &[u8]) -> Result<Option<Vec<u8>>, QmpError> {
        let end = input.iter().position(|byte| *byte == b'\n');
        let (part, rest) = input.split_at(end.unwrap_or(input.len()));
        if self.0.len() + part.len() > LINE_MAX {
            return Err(QmpError::LineTooLong);
        }
        self.0.extend_from_slice(part);
        *input = rest.get(1..).unwrap_or_default();
        Ok(end.map(|_| std::mem::take(&mut self.0)))
    }
}
