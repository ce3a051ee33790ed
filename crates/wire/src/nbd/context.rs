//! Metadata contexts: what a block status is about. Source: `doc/proto.md`, section "Metadata querying"; names that begin
//! with `x-` are free for vendors.

/// What a block status may be asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// Which parts of the export are allocated and which read as zeroes.
    BaseAllocation,
    /// Whether the connection is served, answered by the server's session itself: from memory, beside everything else
    /// that is under way. Both ends of muskox use it as their heartbeat (docs/formats/nbd.md).
    Heartbeat,
}

/// Which contexts were selected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contexts(u8);

impl Context {
    /// All that are known here.
    pub const ALL: [Self; 2] = [Self::BaseAllocation, Self::Heartbeat];

    /// How it is called on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BaseAllocation => "base:allocation",
            Self::Heartbeat => "x-muskox:heartbeat",
        }
    }

    /// The id that our server gives it; any numbers would do.
    #[must_use]
    pub const fn id(self) -> u32 {
        match self {
            Self::BaseAllocation => 1,
            Self::Heartbeat => 2,
        }
    }

    /// Whether `query` is the wildcard of its namespace, which only listing honours.
    pub(super) fn is_in(self, query: &str) -> bool {
        query.ends_with(':') && self.name().strip_prefix(query).is_some()
    }
}

impl Contexts {
    /// Whether this one is among them.
    #[must_use]
    pub const fn has(self, context: Context) -> bool {
        self.0 & (1 << context.id()) != 0
    }

    /// With this one too.
    #[must_use]
    pub const fn with(self, context: Context) -> Self {
        Self(self.0 | 1 << context.id())
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Context> {
        Context::ALL.into_iter().filter(move |context| self.has(*context))
    }
}
