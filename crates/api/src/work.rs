//! Long work on one machine, such as the import of an image: asked for, looked at, cancelled.

use crate::schema::{message, words};
use crate::storage::Progress;
use units::{PoolName, VolumeName};

words! {
    /// How a piece of work is.
    pub enum WorkState {
        /// It goes on.
        Running = "running",
        /// It was done.
        Done = "done",
        /// It could not be done; the text says why.
        Failed = "failed",
        /// It was cancelled.
        Cancelled = "cancelled",
    }
}

message! {
    /// Asks for a volume with the content of an image file of this machine.
    #[serde(deny_unknown_fields)]
    pub struct ImageImportRequest {
        /// The image file, an absolute path on the machine that is asked.
        pub path: String,
        /// `raw` or `qcow2`; without it what the file looks like. Never guessed from a guest's own bytes twice: it is written down.
        pub format: Option<String>,
        /// The volume; made if there is none, otherwise it must be nobody's and large enough.
        pub volume: VolumeName,
        /// On which pool a new volume is made; without it the only one.
        pub pool: Option<PoolName>,
        /// How long a new volume is, in bytes; without it as long as the image's disk.
        pub size: Option<u64>,
    }
}

message! {
    /// A piece of long work of this machine.
    pub struct Work {
        /// Its number, to ask with.
        pub id: String,
        /// What it does, for people.
        pub what: String,
        /// How it is.
        pub state: WorkState,
        /// How far it is.
        pub progress: Option<Progress>,
        /// What it came to, for people.
        pub text: String,
    }
}

message! {
    /// Long work of this machine, the newest first.
    pub struct WorkList {
        /// What goes on, and the newest that has ended since the node was started.
        pub works: Vec<Work>,
    }
}
