//! What an image file says of itself in its first bytes: enough to refuse it before any tool looks at it.
//!
//! Source: QEMU's `docs/interop/qcow2.txt` (header).

use api::{Code, Problem};

/// As much of a file as is looked at.
pub const HEAD_BYTES: u64 = 1 << 16;
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";
/// "Maximum length of the backing file name is 1023 bytes."
const NAME_MAX_BYTES: usize = 1023;
/// Incompatible features: the file was not closed; it was left corrupt; its data is in another file.
const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;

/// An image file's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A disk's bytes, one after another.
    Raw,
    /// QEMU's.
    Qcow2,
}

impl Format {
    /// As `qemu-img` writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The form of a file that begins with `head`, if it is what `wished` says. Whether a raw one is a disk is another question.
///
/// # Errors
/// [`Code::BadRequest`]: it is something else, or a word that is no form.
pub fn format_of(head: &[u8], wished: Option<&str>) -> Result<Format, Problem> {
    let qcow2 = head.starts_with(&QCOW2_MAGIC);
    let wrong = |text: &str, hint: &str| Err(Problem::new(Code::BadRequest, text, hint));
    match wished {
        None if qcow2 => Ok(Format::Qcow2),
        None => Ok(Format::Raw),
        Some("raw") if qcow2 => wrong(
            "the file is said to be raw, and begins as a qcow2 image does",
            "say --format qcow2; if it really is a disk whose first bytes look like that, copy it by hand",
        ),
        Some("raw") => Ok(Format::Raw),
        Some("qcow2") if qcow2 => Ok(Format::Qcow2),
        Some("qcow2") => {
            wrong("the file is said to be qcow2, and does not begin as one", "say --format raw, or nothing")
        }
        Some(other) => wrong(&format!("'{other}' is no form of an image that is known"), "use raw or qcow2"),
    }
}

/// Refuses a qcow2 image that leads to other files or cannot be read.
///
/// # Errors
/// [`Code::BadRequest`].
pub fn check_qcow2(head: &[u8]) -> Result<(), Problem> {
    let torn = || {
        let hint = "fetch it again and compare its checksum";
        Problem::new(Code::BadRequest, "the qcow2 image ends within its header: it is not whole", hint)
    };
    let word = |at: usize| -> Result<u32, Problem> {
        let bytes = head.get(at..at + 4).ok_or_else(torn)?;
        Ok(u32::from_be_bytes(bytes.try_into().expect("4 bytes")))
    };
    let long = |at: usize| Ok::<u64, Problem>((u64::from(word(at)?) << 32) | u64::from(word(at + 4)?));
    let refuse = |text: String, hint: &str| Err(Problem::new(Code::BadRequest, text, hint));
    let version = word(4)?;
    if !(2..=3).contains(&version) {
        return refuse(
            format!("the image is qcow version {version}; 2 and 3 are imported"),
            "convert it to qcow2 first",
        );
    }
    let (name_at, name_len) = (long(8)?, word(16)?);
    if name_at != 0 {
        let name = name(head, name_at, name_len).unwrap_or_else(|| "a file with an unreadable name".to_owned());
        let text = format!("the image is only the difference to another file ({name}), which is never opened");
        return refuse(text, "make it whole where that file is: `qemu-img convert -O qcow2 FILE WHOLE`");
    }
    if word(32)? != 0 {
        let hint = "convert it to a plain one first, then keep the plain one safe";
        return refuse("the image is encrypted".to_owned(), hint);
    }
    let features = if version == 3 { long(72)? } else { 0 };
    if features & DATA_FILE != 0 {
        let text = "the image keeps its data in another file, which is never opened".to_owned();
        return refuse(text, "make it whole where that file is: `qemu-img convert -O qcow2 FILE WHOLE`");
    }
    if features & DIRTY != 0 {
        let text = "the image was not closed: the program that wrote to it died, or still has it open".to_owned();
        return refuse(text, "end that program, run `qemu-img check -r all FILE`, then import it again");
    }
    if features & CORRUPT != 0 {
        let hint = "try `qemu-img check -r all FILE` on a copy, or fetch it again";
        return refuse("the image says that it is corrupt".to_owned(), hint);
    }
    Ok(())
}

fn name(head: &[u8], at: u64, len: u32) -> Option<String> {
    let (at, len) = (usize::try_from(at).ok()?, usize::try_from(len).ok()?);
    let bytes = head.get(at..at.checked_add(len.min(NAME_MAX_BYTES))?)?;
    let text = String::from_utf8_lossy(bytes);
    Some(format!("'{}'", text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect::<String>()))
}

#[cfg(test)]
mod test {
    use super::*;

    /// A version 3 header of an empty, plain image.
    fn plain() -> Vec<u8> {
        let mut head = vec![0; 112];
        head[..4].copy_from_slice(&QCOW2_MAGIC);
        head[7] = 3;
        head[23] = 16;
        head
    }

    #[test]
    fn forms_are_known_by_their_first_bytes_and_never_guessed_against_the_word() {
        let code = |head: &[u8], wished| format_of(head, wished).map_err(|problem| problem.code);
        let (qcow2, raw) = (plain(), vec![0; 512]);
        assert_eq!(code(&qcow2, None), Ok(Format::Qcow2));
        assert_eq!(code(&raw, None), Ok(Format::Raw));
        assert_eq!(code(&[], None), Ok(Format::Raw));
        assert_eq!(code(&raw, Some("raw")), Ok(Format::Raw));
        for (head, wished) in [(&qcow2[..], Some("raw")), (&raw, Some("qcow2")), (&raw, Some("vmdk"))] {
            assert_eq!(code(head, wished), Err(Code::BadRequest), "{wished:?}");
        }
        assert_eq!(code(b"KDMV\x01", Some("raw")), Ok(Format::Raw), "a word is a word");
    }

    /// Goal: an image that leads elsewhere is refused with what it leads to; no header panics. Method: each field spoiled,
    /// every length, and each byte of a header set to 0xff.
    #[test]
    fn hostile_headers_are_refused() {
        assert!(check_qcow2(&plain()).is_ok());
        let mut backed = plain();
        backed[15] = 112;
        backed[19] = 11;
        backed.extend_from_slice(b"/etc/shadow");
        let refused = check_qcow2(&backed).unwrap_err();
        assert!(refused.text.contains("'/etc/shadow'"), "{refused:?}");
        for (at, value) in [(7, 4), (35, 1), (35, 2), (79, 4), (79, 2), (79, 1)] {
            let mut head = plain();
            head[at] = value;
            assert!(check_qcow2(&head).is_err(), "byte {at} = {value}");
        }
        for len in 0..80 {
            assert!(check_qcow2(&plain()[..len]).is_err(), "{len} bytes");
        }
        for at in 8..backed.len() {
            let mut head = backed.clone();
            head[at] = 0xff;
            let _ = check_qcow2(&head);
        }
    }
}
