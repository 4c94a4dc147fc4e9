//! Programs that were started, as the kernel's proc connector tells them over netlink.
//!
//! ```text
//!   nlmsghdr 16 │ cn_msg 20: idx 1, val 1, … │ proc_event: what u32, cpu u32, time u64 │ exec: pid u32, tgid u32
//! ```
//! Layouts: linux/netlink.h, linux/connector.h, linux/cn_proc.h; everything in the byte order of the machine.

/// `CN_IDX_PROC`: also the multicast group.
pub const GROUP: u32 = 1;
/// `NLMSG_DONE`.
const DONE: u16 = 3;
/// `PROC_EVENT_EXEC`.
const EXEC: u32 = 2;
const NETLINK: usize = 16;
const CONNECTOR: usize = 20;

/// What the kernel is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `PROC_CN_MCAST_LISTEN`.
    Listen = 1,
    /// `PROC_CN_MCAST_IGNORE`.
    Ignore = 2,
}

/// The message that tells it.
#[must_use]
pub fn order(order: Order) -> Vec<u8> {
    let mut message = Vec::with_capacity(40);
    message.extend(40u32.to_ne_bytes());
    message.extend(DONE.to_ne_bytes());
    message.extend([0; 10]);
    message.extend(GROUP.to_ne_bytes());
    message.extend(1u32.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(4u16.to_ne_bytes());
    message.extend([0; 2]);
    message.extend((order as u32).to_ne_bytes());
    message
}

/// The process that has just executed a program, if the message tells of one.
#[must_use]
pub fn started(message: &[u8]) -> Option<i32> {
    let event = message.get(NETLINK + CONNECTOR..)?;
    let word = |at: usize| event.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    if word(0)? != EXEC {
        return None;
    }
    i32::try_from(word(20)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exec_is_told_from_a_fork() {
        let mut message = vec![0; NETLINK + CONNECTOR];
        for word in [EXEC, 0, 0, 0, 4712, 4711] {
            message.extend(word.to_ne_bytes());
        }
        assert_eq!(started(&message), Some(4711));
        message[NETLINK + CONNECTOR] = 1;
        assert_eq!(started(&message), None);
        assert_eq!(started(&message[..40]), None);
        assert_eq!(order(Order::Listen).len(), 40);
    }
}
