//! Name and password for a registry: from a Secret to the agents, never to a log or a disk.

use std::fmt;

use zeroize::Zeroizing;

use crate::v1;

/// Who logs in. The password's memory is overwritten when it goes (copies in buffers of connections are not); it is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Name.
    pub user: String,
    password: Zeroizing<String>,
}

impl fmt::Debug for Login {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::RegistryLogin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("RegistryLogin(…)")
    }
}

impl Login {
    /// Of these.
    #[must_use]
    pub fn new(user: String, password: String) -> Self {
        Self { user, password: Zeroizing::new(password) }
    }

    /// The password itself.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// As it is sent.
    #[must_use]
    pub fn message(&self) -> v1::RegistryLogin {
        v1::RegistryLogin { user: self.user.clone(), password: self.password.to_string() }
    }

    /// As it was received.
    #[must_use]
    pub fn received(message: v1::RegistryLogin) -> Self {
        Self::new(message.user, message.password)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_sent_and_never_printed() {
        let login = Login::new("ada".into(), "secret word".into());
        assert_eq!(Login::received(login.message()), login);
        assert!(!format!("{login:?} {:?}", login.message()).contains("secret"));
    }
}
