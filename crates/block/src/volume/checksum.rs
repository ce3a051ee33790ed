//! LVM2's checksum: CRC-32 with the reflected polynomial 0xedb88320, its own start and no final inversion.
//! Source: lvm2 `lib/misc/crc.c` and `lib/misc/crc.h` (`INITIAL_CRC`).

const START: u32 = 0xf597_a6cf;
const POLYNOMIAL: u32 = 0xedb8_8320;

const TABLE: [u32; 256] = table();

/// The checksum of `bytes`.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(START, |sum, byte| {
        let [low, ..] = sum.to_le_bytes();
        (sum >> 8) ^ TABLE[usize::from(low ^ byte)]
    })
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    let mut seed = 0;
    while index < table.len() {
        let mut value: u32 = seed;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ POLYNOMIAL } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
        seed += 1;
    }
    table
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: LVM2's sums, not zlib's. Method: zlib's check value of "123456789" is 0xcbf43926 with start and end
    /// inverted; CRC is linear, so the difference of the starts, run over nine zeroes, is the difference of the sums.
    #[test]
    fn it_is_crc32_from_another_start() {
        let nine_zeroes = |start: u32| (0..9).fold(start, |sum, _| (sum >> 8) ^ TABLE[(sum & 0xff) as usize]);
        let zlib = !0xcbf4_3926_u32;
        assert_eq!(checksum(b"123456789") ^ zlib, nine_zeroes(START ^ u32::MAX));
        assert_eq!(checksum(b""), START);
    }
}
