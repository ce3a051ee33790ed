//! A target that begins a new life is told the store's epoch of each of its volumes: it may have lost the member that knew.

use super::Desk;
use super::act::floor;
use crate::peer::{Ask, Reply};
use crate::registry::Record;
use host::runtime::now;
use std::rc::Rc;
use std::time::Duration;
use units::{HostKey, Millis, Moment};
use wire::control::Request;

/// Two reports of one life differ by the time that a report takes. One that takes longer is told its floors once more; a
/// target that died soon after its start and was started at once must not be taken for the one before it.
const SAME_LIFE: Millis = Millis(500);
/// A target that has not taken all floors, because a pool is not started yet, is told them again.
const TELL_AGAIN: Duration = Duration::from_secs(3);

impl Desk {
    /// A machine's target says how long it has run. A life that is new is told its floors.
    pub fn target_lives(self: &Rc<Self>, machine: &Record, up: Option<Millis>) {
        let Some(up) = up else {
            self.lives.borrow_mut().remove(&machine.key);
            return;
        };
        if !self.is_new_life(machine.key, Moment(now().0.saturating_sub(up.0))) {
            return;
        }
        let (desk, machine) = (Rc::clone(self), machine.clone());
        tokio::task::spawn_local(async move {
            if !desk.tell_floors(&machine).await {
                tokio::time::sleep(TELL_AGAIN).await;
                // The next report tries again.
                desk.lives.borrow_mut().remove(&machine.key);
            }
        });
    }

    fn is_new_life(&self, machine: HostKey, began: Moment) -> bool {
        let mut lives = self.lives.borrow_mut();
        let known = lives.insert(machine, began);
        known.is_none_or(|known| began.since(known) > SAME_LIFE)
    }

    /// Whether all were told.
    async fn tell_floors(&self, machine: &Record) -> bool {
        let name = machine.name.clone();
        let views = self.views.clone();
        let floors = self.store.ask(move |engine| {
            let view = views.whole(engine)?;
            let here = view.volumes.values().filter(|(volume, _)| volume.node == name && volume.id.is_some());
            let mut floors = Vec::new();
            for (volume, _) in here {
                match floor(engine, &volume.name) {
                    Ok(Some(epoch)) => floors.push((volume.name.clone(), epoch)),
                    Ok(None) => {}
                    // Without its floor a volume serves nobody: that is the safe side, and its alone.
                    Err(problem) => tracing::error!("the floor of volume '{}': {problem}", volume.name),
                }
            }
            Ok(floors)
        });
        let floors = match floors.await {
            Ok(floors) => floors,
            Err(problem) => {
                tracing::warn!("the floors of '{}': {problem}; hint: {}", machine.name, problem.hint);
                return false;
            }
        };
        let mut refused = 0;
        for (volume, epoch) in floors {
            match self
                .machines
                .ask(machine, Ask::Target { request: Request::Floor { volume: volume.clone(), epoch } })
                .await
            {
                Ok(Reply::Target { answer: Ok(answer) }) => {
                    if let wire::control::Reply::Grant(grant) = answer {
                        // One that knows more than the store is not told anything by this.
                        self.note_granted(&volume, grant.epoch);
                    }
                }
                // Its pool has not been started yet: without its floor nobody could use it then.
                Ok(Reply::Target { answer: Err(refusal) }) => {
                    tracing::debug!("the floor of volume '{volume}' at '{}': {}", machine.name, refusal.text);
                    refused += 1;
                }
                Ok(_) | Err(_) => return false,
            }
        }
        if refused == 0 {
            tracing::info!("the target of '{}' was restarted and was told its floors", machine.name);
        }
        refused == 0
    }
}
