//! Whose order counts: every action carries the revision of the job record that intends it, and a host or a witness of
//! a VM's life refuses what is older than the newest it has heard. The store's revision is the only token there is.

use super::JobId;
use crate::store::Revision;
use serde::{Deserialize, Serialize};
use units::VmName;
use units::sabotage::{Bug, planted};

/// By what right something is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Of which VM.
    pub vm: VmName,
    /// By which job.
    pub job: JobId,
    /// Intended by the job's record of this revision.
    pub at: Revision,
}

/// The newest order that a host heard about one VM. Kept durably with what the host knows of the VM, so that a
/// restarted agent does not obey a controller of the past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Orders(Revision);

impl Orders {
    /// Whether an order may be carried out; if so, older ones no longer may.
    #[must_use]
    pub fn admit(&mut self, order: &Order) -> bool {
        if order.at < self.0 && !planted(Bug::OldOrderObeyed) {
            return false;
        }
        self.0 = self.0.max(order.at);
        true
    }

    /// The revision of the newest order heard.
    #[must_use]
    pub fn newest(&self) -> Revision {
        self.0
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: a controller that was taken over is not obeyed. Method: an older revision after a newer one.
    #[test]
    fn an_older_order_is_refused() {
        let order =
            |at| Order { vm: "web1".parse().expect("a name"), job: "j1".parse().expect("an id"), at: Revision(at) };
        let mut orders = Orders::default();
        assert!(orders.admit(&order(5)));
        assert!(orders.admit(&order(5)), "the same again: it was asked again");
        assert!(!orders.admit(&order(4)));
        assert!(orders.admit(&order(9)));
        assert_eq!(orders.newest(), Revision(9));
    }
}
