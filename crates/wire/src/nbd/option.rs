//! The data of options and of their replies. Both ends use it.

use super::bytes::{len_u32, take_slice, take_u16, take_u32};
use super::constant::{
    INFO_BLOCK_SIZE, INFO_DESCRIPTION, INFO_EXPORT, INFO_NAME, INFO_REQUESTS_MAX, META_QUERIES_MAX, OPTION_MAGIC,
    OPTION_REPLY_MAGIC, REP_ACK, REP_INFO, REP_META_CONTEXT, REP_SERVER, STRING_MAX,
};
use super::{Context, Contexts, ExportInfo, ListedExport, OptionError, Refusal};

/// An option's header: magic, option, length.
pub(super) const OPTION_HEAD: usize = 16;
/// A reply's header: magic, option, type, length.
pub(super) const OPTION_REPLY_HEAD: usize = 20;

/// Appends an option as the client sends it.
pub(super) fn push_option(out: &mut Vec<u8>, option: u32, data: &[u8]) {
    out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&len_u32(data).to_be_bytes());
    out.extend_from_slice(data);
}

/// Appends a reply to an option as the server sends it.
pub(super) fn push_reply(out: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&len_u32(data).to_be_bytes());
    out.extend_from_slice(data);
}

/// Appends the reply that ends an option well.
pub(super) fn push_ack(out: &mut Vec<u8>, option: u32) {
    push_reply(out, option, REP_ACK, &[]);
}

/// Appends the reply that refuses an option.
pub(super) fn push_refusal(out: &mut Vec<u8>, option: u32, refusal: &Refusal) {
    push_reply(out, option, refusal.kind.wire(), refusal.text.as_bytes());
}

/// A string of the protocol: UTF-8 without NUL, at most [`STRING_MAX`] bytes.
pub(super) fn string(bytes: &[u8]) -> Option<&str> {
    if bytes.len() > STRING_MAX || bytes.contains(&0) { None } else { std::str::from_utf8(bytes).ok() }
}

fn invalid(text: &str) -> Refusal {
    Refusal::new(OptionError::Invalid, text)
}

fn take_string<'a>(data: &mut &'a [u8]) -> Option<&'a str> {
    let len = usize::try_from(take_u32(data)?).ok()?;
    take_slice(data, len).and_then(string)
}

/// What a client asks about an export, with INFO and GO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InfoRequest {
    pub(super) name: String,
    pub(super) wants_name: bool,
    pub(super) wants_description: bool,
}

/// Reads the data of INFO and GO: name, number of requests, requests; unknown requests are ignored.
pub(super) fn parse_info(mut data: &[u8]) -> Result<InfoRequest, Refusal> {
    let data = &mut data;
    let name = take_string(data).ok_or_else(|| invalid("the export name is no string of the protocol"))?;
    let count = take_u16(data).ok_or_else(|| invalid("the number of information requests is missing"))?;
    if count > INFO_REQUESTS_MAX {
        return Err(Refusal::new(OptionError::TooBig, "too many information requests"));
    }
    let mut request = InfoRequest { name: name.to_owned(), wants_name: false, wants_description: false };
    for _ in 0..count {
        match take_u16(data).ok_or_else(|| invalid("information requests are missing"))? {
            INFO_NAME => request.wants_name = true,
            INFO_DESCRIPTION => request.wants_description = true,
            _ => {}
        }
    }
    if data.is_empty() { Ok(request) } else { Err(invalid("there are bytes after the information requests")) }
}

/// The data of GO as our client sends it: a name, and the request for block sizes that obliges it to keep them.
pub(super) fn encode_info(name: &str) -> Vec<u8> {
    let mut data = Vec::with_capacity(8 + name.len());
    data.extend_from_slice(&len_u32(name.as_bytes()).to_be_bytes());
    data.extend_from_slice(name.as_bytes());
    data.extend_from_slice(&1_u16.to_be_bytes());
    data.extend_from_slice(&INFO_BLOCK_SIZE.to_be_bytes());
    data
}

/// Which contexts the queries of a metadata option match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MetaRequest {
    pub(super) name: String,
    /// Named as they are called.
    pub(super) exact: Contexts,
    /// Named so, by the wildcard of their namespace, or by no query at all; only listing honours these.
    pub(super) listed: Contexts,
}

/// Reads the data of the metadata options; queries of unknown namespaces and names are ignored.
pub(super) fn parse_meta(mut data: &[u8]) -> Result<MetaRequest, Refusal> {
    let data = &mut data;
    let name = take_string(data).ok_or_else(|| invalid("the export name is no string of the protocol"))?;
    let queries = take_u32(data).ok_or_else(|| invalid("the number of queries is missing"))?;
    if queries > META_QUERIES_MAX {
        return Err(Refusal::new(OptionError::TooBig, "too many queries for metadata contexts"));
    }
    let (mut exact, mut listed) = (Contexts::default(), Contexts::default());
    for _ in 0..queries {
        let query = take_string(data).ok_or_else(|| invalid("a query is no string of the protocol"))?;
        for context in Context::ALL {
            exact = if query == context.name() { exact.with(context) } else { exact };
            listed = if query == context.name() || context.is_in(query) { listed.with(context) } else { listed };
        }
    }
    if queries == 0 {
        listed = Context::ALL.into_iter().fold(listed, Contexts::with);
    }
    let request = MetaRequest { name: name.to_owned(), exact, listed };
    if data.is_empty() { Ok(request) } else { Err(invalid("there are bytes after the queries")) }
}

/// The data of SET_META_CONTEXT as our client sends it.
pub(super) fn encode_meta(name: &str, context: Context) -> Vec<u8> {
    let mut data = Vec::with_capacity(12 + name.len() + context.name().len());
    data.extend_from_slice(&len_u32(name.as_bytes()).to_be_bytes());
    data.extend_from_slice(name.as_bytes());
    data.extend_from_slice(&1_u32.to_be_bytes());
    data.extend_from_slice(&len_u32(context.name().as_bytes()).to_be_bytes());
    data.extend_from_slice(context.name().as_bytes());
    data
}

/// Appends one metadata context.
pub(super) fn push_meta_context(out: &mut Vec<u8>, option: u32, id: u32, context: Context) {
    let mut data = id.to_be_bytes().to_vec();
    data.extend_from_slice(context.name().as_bytes());
    push_reply(out, option, REP_META_CONTEXT, &data);
}

/// Appends one line of the list of exports.
pub(super) fn push_listed(out: &mut Vec<u8>, option: u32, export: &ListedExport) {
    let mut data = len_u32(export.name.as_bytes()).to_be_bytes().to_vec();
    data.extend_from_slice(export.name.as_bytes());
    data.extend_from_slice(export.description.as_bytes());
    push_reply(out, option, REP_SERVER, &data);
}

/// Appends what INFO and GO say about an export; the final ACK is not included.
pub(super) fn push_info(out: &mut Vec<u8>, option: u32, asked: &InfoRequest, export: &ExportInfo) {
    let mut data = Vec::with_capacity(14);
    data.extend_from_slice(&INFO_EXPORT.to_be_bytes());
    data.extend_from_slice(&export.size.0.to_be_bytes());
    data.extend_from_slice(&export.flags.0.to_be_bytes());
    push_reply(out, option, REP_INFO, &data);

    data.clear();
    data.extend_from_slice(&INFO_BLOCK_SIZE.to_be_bytes());
    for size in [export.block.min, export.block.preferred, export.block.max] {
        data.extend_from_slice(&size.to_be_bytes());
    }
    push_reply(out, option, REP_INFO, &data);

    let name = asked.wants_name.then(|| export.name.as_ref().unwrap_or(&asked.name));
    let description = export.description.as_ref().filter(|_| asked.wants_description);
    for (kind, text) in [(INFO_NAME, name), (INFO_DESCRIPTION, description)] {
        if let Some(text) = text {
            data.clear();
            data.extend_from_slice(&kind.to_be_bytes());
            data.extend_from_slice(text.as_bytes());
            push_reply(out, option, REP_INFO, &data);
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn kind<T: std::fmt::Debug>(parsed: Result<T, Refusal>) -> OptionError {
        parsed.expect_err("malformed").kind
    }

    /// The data of GO byte by byte, then cut at every place and with a byte too many: never accepted.
    #[test]
    #[rustfmt::skip]
    fn info_data_is_taken_whole_or_not_at_all() {
        let data = [
            0, 0, 0, 2, b'v', b'1', // name
            0, 3,                   // three requests
            0, 3,                   // BLOCK_SIZE
            0, 2,                   // DESCRIPTION
            0xff, 0xff,             // one that does not exist
        ];
        let expect = InfoRequest { name: "v1".to_owned(), wants_name: false, wants_description: true };
        assert_eq!(parse_info(&data), Ok(expect));
        for cut in 0..data.len() {
            assert_eq!(kind(parse_info(&data[..cut])), OptionError::Invalid, "{cut}");
        }
        assert_eq!(kind(parse_info(&[&data[..], &[0]].concat())), OptionError::Invalid);
        let bad: [(&[u8], OptionError); 4] = [
            (&[0xff, 0xff, 0xff, 0xff, b'v', 0, 0], OptionError::Invalid), // a name of 4 GiB
            (&[0, 0, 0, 1, 0, 0, 0], OptionError::Invalid),                // a NUL
            (&[0, 0, 0, 1, 0xff, 0, 0], OptionError::Invalid),             // no UTF-8
            (&[0, 0, 0, 0, 0xff, 0xff], OptionError::TooBig),              // 65535 requests
        ];
        for (data, expect) in bad {
            assert_eq!(kind(parse_info(data)), expect, "{data:?}");
        }
        let own = parse_info(&encode_info("v1")).unwrap();
        assert_eq!(own, InfoRequest { name: "v1".to_owned(), wants_name: false, wants_description: false });
    }

    /// The data of the metadata options byte by byte, cut at every place, and with lying lengths.
    #[test]
    #[rustfmt::skip]
    fn meta_data_is_taken_whole_or_not_at_all() {
        let data = [
            0, 0, 0, 1, b'v',                            // name
            0, 0, 0, 2,                                  // two queries
            0, 0, 0, 5, b'b', b'a', b's', b'e', b':',    // the wildcard
            0, 0, 0, 3, b'x', b'-', b':',                // an unknown namespace
        ];
        let base = Contexts::default().with(Context::BaseAllocation);
        let expect = MetaRequest { name: "v".to_owned(), exact: Contexts::default(), listed: base };
        assert_eq!(parse_meta(&data), Ok(expect));
        for cut in 0..data.len() {
            assert_eq!(kind(parse_meta(&data[..cut])), OptionError::Invalid, "{cut}");
        }
        assert_eq!(kind(parse_meta(&[&data[..], &[0]].concat())), OptionError::Invalid);
        assert_eq!(kind(parse_meta(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])), OptionError::TooBig);
        let own = parse_meta(&encode_meta("v", Context::BaseAllocation)).unwrap();
        assert_eq!(own, MetaRequest { name: "v".to_owned(), exact: base, listed: base });
        let beat = Contexts::default().with(Context::Heartbeat);
        assert_eq!(parse_meta(&encode_meta("v", Context::Heartbeat)).unwrap().exact, beat);
        let all = parse_meta(&[0, 0, 0, 1, b'v', 0, 0, 0, 0]).unwrap().listed;
        assert_eq!(all.iter().collect::<Vec<_>>(), Context::ALL);
    }
}
