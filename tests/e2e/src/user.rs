//! A user of the cluster who may do less than its administrator: the administrator's kubeconfig with `as`, which every client honours.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::case::Case;

/// A user with a kubeconfig of their own.
#[derive(Debug)]
pub struct User {
    name: String,
    kubeconfig: PathBuf,
}

impl User {
    /// A user who may do this in the case's namespace: rules of a Role.
    ///
    /// # Errors
    /// When the role or the kubeconfig cannot be written.
    pub fn with(case: &Case, name: &str, rules: &Value) -> Result<Self> {
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name}, "rules": rules});
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "User", "name": name}],
        });
        case.apply(&[role, binding])?;
        let text = case.lab.kubectl(&["config", "view", "--raw", "-o", "json"])?;
        let mut config: Value = serde_json::from_str(&text)?;
        let user = config.pointer_mut("/users/0/user").context("the kubeconfig has no user")?;
        user["as"] = json!(name);
        let kubeconfig = std::env::temp_dir().join(format!("{}-{name}.kubeconfig", case.namespace));
        std::fs::write(&kubeconfig, config.to_string())?;
        Ok(Self { name: name.to_owned(), kubeconfig })
    }

    /// Arguments that make kubectl act as this user.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        self.kubeconfig.to_string_lossy().into_owned()
    }

    /// The user's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.kubeconfig);
    }
}
