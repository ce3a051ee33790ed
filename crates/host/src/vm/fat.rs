//! A floppy of 1.44 MB with a few files in it: FAT12, with long names.
//!
//! Source: Microsoft, "FAT: General Overview of On-Disk Format" 1.03 (fatgen103). Little-endian throughout.
//!
//! ```text
//! sector 0   boot sector with the parameters      1..9, 10..18  two FATs of 12-bit entries
//!        19  root folder, 224 entries of 32 B     33..2879      clusters 2.. of one sector
//! ```

const SECTOR: usize = 512;
const SECTORS: usize = 2880;
const FAT_SECTORS: usize = 9;
const FATS: usize = 2;
const ROOT_ENTRIES: usize = 224;
const ENTRY: usize = 32;
const ROOT_AT: usize = (1 + FATS * FAT_SECTORS) * SECTOR;
const DATA_AT: usize = ROOT_AT + ROOT_ENTRIES * ENTRY;
const FIRST_CLUSTER: usize = 2;
const CLUSTERS: usize = SECTORS - DATA_AT / SECTOR;
/// 1 January 1980, the first day there is: the same files give the same bytes.
const DATE: u16 = 1 << 5 | 1;
const END_OF_CHAIN: u16 = 0xfff;
/// UTF-16 units of a long name in one entry, and where they stand.
const LONG_UNITS: [usize; 13] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];

/// The floppy `label` with `files`; `None` if they do not fit. Names are lower-case ASCII with no dot at the end, at most 255 characters.
pub(super) fn floppy(label: &str, volume_id: u32, files: &[(&str, &[u8])]) -> Option<Vec<u8>> {
    let mut image = vec![0; SECTORS * SECTOR];
    boot_sector(&mut image, label, volume_id);
    // The first two entries name the medium and the end mark (fatgen103, "FAT[0]").
    let mut fat = vec![0xff0, END_OF_CHAIN];
    let mut root = vec![entry(&padded(label), 0x08, 0, 0)];
    for (index, (name, bytes)) in files.iter().enumerate() {
        let first = fat.len();
        let clusters = bytes.len().div_ceil(SECTOR);
        if first + clusters > FIRST_CLUSTER + CLUSTERS {
            return None;
        }
        let at = DATA_AT + (first - FIRST_CLUSTER) * SECTOR;
        image[at..at + bytes.len()].copy_from_slice(bytes);
        let chain = (first + 1..first + clusters).map(|next| u16::try_from(next).expect("a cluster has 12 bits"));
        fat.extend(chain);
        fat.extend((clusters > 0).then_some(END_OF_CHAIN));
        let short = short_name(name, index);
        root.extend(long_entries(name, &short));
        root.push(entry(&short, 0x20, if clusters > 0 { first } else { 0 }, bytes.len()));
    }
    if root.len() > ROOT_ENTRIES {
        return None;
    }
    for copy in 0..FATS {
        let at = (1 + copy * FAT_SECTORS) * SECTOR;
        pack(&fat, &mut image[at..at + FAT_SECTORS * SECTOR]);
    }
    image[ROOT_AT..ROOT_AT + root.len() * ENTRY].copy_from_slice(&root.concat());
    Some(image)
}

fn boot_sector(image: &mut [u8], label: &str, volume_id: u32) {
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    let word = |number: usize| u16::try_from(number).expect("a constant of this format").to_le_bytes();
    put(0, &[0xeb, 0x3c, 0x90]); // a jump over the parameters, as every FAT has it
    put(3, b"muskox  ");
    put(11, &word(SECTOR));
    put(13, &[1]); // sectors a cluster
    put(14, &word(1)); // reserved sectors
    put(16, &[2]); // FATs
    put(17, &word(ROOT_ENTRIES));
    put(19, &word(SECTORS));
    put(21, &[0xf0]); // a removable medium
    put(22, &word(FAT_SECTORS));
    put(24, &word(18)); // sectors a track
    put(26, &word(2)); // heads
    put(38, &[0x29]); // the next three fields are there
    put(39, &volume_id.to_le_bytes());
    put(43, &padded(label));
    put(54, b"FAT12   ");
    put(510, &[0x55, 0xaa]);
}

/// Two 12-bit entries in three bytes.
fn pack(fat: &[u16], into: &mut [u8]) {
    for (pair, bytes) in fat.chunks(2).zip(into.chunks_mut(3)) {
        let (low, high) = (u32::from(pair[0]), u32::from(pair.get(1).copied().unwrap_or_default()));
        bytes.copy_from_slice(&(low | high << 12).to_le_bytes()[..3]);
    }
}

fn padded(label: &str) -> [u8; 11] {
    let mut name = [b' '; 11];
    for (place, byte) in name.iter_mut().zip(label.bytes()) {
        *place = byte.to_ascii_uppercase();
    }
    name
}

/// `META_~1`: five characters and a number that makes it unique. A dot would end the eight characters before the extension.
fn short_name(name: &str, index: usize) -> [u8; 11] {
    let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    padded(&format!("{plain:.5}~{}", index + 1))
}

fn entry(name: &[u8; 11], attributes: u8, cluster: usize, len_bytes: usize) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    entry[..11].copy_from_slice(name);
    entry[11] = attributes;
    entry[16..18].copy_from_slice(&DATE.to_le_bytes());
    entry[18..20].copy_from_slice(&DATE.to_le_bytes());
    entry[24..26].copy_from_slice(&DATE.to_le_bytes());
    entry[26..28].copy_from_slice(&u16::try_from(cluster).expect("a cluster has 12 bits").to_le_bytes());
    entry[28..32].copy_from_slice(&u32::try_from(len_bytes).expect("it fits a floppy").to_le_bytes());
    entry
}

/// The entries that hold a long name, the last part first.
fn long_entries(name: &str, short: &[u8; 11]) -> Vec<[u8; ENTRY]> {
    let sum = short.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    let units: Vec<u16> = name.encode_utf16().collect();
    let parts: Vec<&[u16]> = units.chunks(LONG_UNITS.len()).collect();
    let part_entry = |(index, part): (usize, &&[u16])| {
        let mut entry = [0; ENTRY];
        let last = if index + 1 == parts.len() { 0x40 } else { 0 };
        entry[0] = last | u8::try_from(index + 1).expect("a name has at most 20 parts");
        entry[11] = 0x0f;
        entry[13] = sum;
        for (place, at) in LONG_UNITS.into_iter().enumerate() {
            // One zero ends the name, the rest is filled with ones.
            let unit = part.get(place).copied().unwrap_or(if place == part.len() { 0 } else { 0xffff });
            entry[at..at + 2].copy_from_slice(&unit.to_le_bytes());
        }
        entry
    };
    parts.iter().enumerate().rev().map(part_entry).collect()
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: what does not fit is refused, what just fits is not.
    #[test]
    fn a_floppy_has_an_end() {
        let most = vec![7; CLUSTERS * SECTOR];
        assert!(floppy("X", 1, &[("a", &most)]).is_some());
        assert!(floppy("X", 1, &[("a", &most), ("b", b"")]).is_some(), "an empty file has no cluster");
        assert!(floppy("X", 1, &[("a", &most), ("b", b"1")]).is_none());
    }

    /// Goal: entries are packed as the paper draws them. Source: fatgen103, "FAT12 entry".
    #[test]
    fn twelve_bits_are_packed() {
        let mut bytes = [0; 6];
        pack(&[0xff0, 0xfff, 0x123], &mut bytes);
        assert_eq!(bytes, [0xf0, 0xff, 0xff, 0x23, 0x01, 0x00]);
    }
}
