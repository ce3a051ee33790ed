//! What keeps this process from its work, in sentences, for whoever asks for its status. Each is logged when it begins and when
//! it is over, not each time that it is met.

use std::cell::RefCell;
use std::collections::BTreeMap;

/// All of it, by what it is about.
#[derive(Default)]
pub struct Troubles(RefCell<BTreeMap<String, String>>);

impl Troubles {
    /// How it stands with something now: what is wrong, or that nothing is.
    pub fn note(&self, about: &str, wrong: Option<String>) {
        let mut all = self.0.borrow_mut();
        let Some(text) = wrong else {
            if all.remove(about).is_some() {
                tracing::info!("{about}: well again");
            }
            return;
        };
        if all.get(about) != Some(&text) {
            tracing::error!("{about}: {text}");
            all.insert(about.to_owned(), text);
        }
    }

    /// The sentences.
    pub fn list(&self) -> Vec<String> {
        self.0.borrow().iter().map(|(about, text)| format!("{about}: {text}")).collect()
    }
}
