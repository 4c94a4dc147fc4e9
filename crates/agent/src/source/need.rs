//! Whether what is on its way is still needed. A frozen pod that is not going to leave must not wait for it: not when its migration is taken back, and not for the other
//! parts of the pod when one has failed.

use godwit_rpc::v1::Failure;
use tokio::sync::watch;

/// Why nothing of a pod is needed any more, once that is so.
#[derive(Debug, Default)]
pub struct Need(watch::Sender<Option<Failure>>);

impl Need {
    /// From here on nothing is waited for. The first reason is the one that is told.
    pub fn end(&self, why: Failure) {
        self.0.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert(why);
            first
        });
    }

    /// What becomes of a transfer, or at once why nobody needs it any more. One that fails makes all others useless.
    ///
    /// # Errors
    /// Its own, or the reason why nothing is needed.
    pub async fn of<T>(&self, transfer: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let mut told = self.0.subscribe();
        let ended = async { told.wait_for(Option::is_some).await.ok().and_then(|why| why.clone()) };
        tokio::select! {
            outcome = transfer => outcome.inspect_err(|why| self.end(why.clone())),
            Some(why) = ended => Err(why),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::failure::internal;

    #[tokio::test]
    async fn the_first_failure_ends_all_and_is_told() {
        let need = Need::default();
        let endless = need.of(std::future::pending::<Result<(), Failure>>());
        let fails = need.of(async { Err::<(), _>(internal("the first", "part")) });
        let (one, other) = tokio::join!(endless, fails);
        assert_eq!((one.unwrap_err(), other.unwrap_err()), (internal("the first", "part"), internal("the first", "part")));
        need.end(internal("taken back", "later"));
        let late = need.of(std::future::pending::<Result<(), Failure>>()).await;
        assert_eq!(late.unwrap_err(), internal("the first", "part"));
    }

    #[tokio::test]
    async fn what_is_needed_arrives() {
        assert_eq!(Need::default().of(async { Ok(7) }).await, Ok(7));
    }
}
