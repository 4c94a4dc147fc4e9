//! Closing what the kernel closes slowly, so that nobody waits for it.
//!
//! The last close of a netlink socket that has changed rules waits until the kernel has freed what was changed (`nft_rcv_nl_event` of nf_tables_api.c), that of a packet socket
//! until nobody hears by it any more (`packet_release` of af_packet.c): one grace period of RCU each, some 10 ms. In the freeze, and between frames that are kept and
//! who waits for them, nobody has that time. Where rules are to change again in that very moment the next change waits instead: then the close is to be waited for before.
//!
//! ```text
//!   caller ── rules are in force, acknowledged ──▶ goes on
//!                └─ the socket ──▶ a thread of its own ── close(2) … 10 ms ──▶ ends
//! ```

/// Drops a value on a thread of its own. If there can be none, here.
pub fn elsewhere<T: Send + 'static>(value: T) {
    // What cannot be spawned is dropped with its closure.
    let _ = std::thread::Builder::new().name("close".into()).spawn(move || drop(value));
}

/// Does something on a thread of its own, for which nobody waits. If there can be none, it is not done.
pub fn beside(name: &str, work: impl FnOnce() + Send + 'static) {
    if let Err(error) = std::thread::Builder::new().name(name.into()).spawn(work) {
        tracing::warn!(name, %error, "no thread can be made");
    }
}
