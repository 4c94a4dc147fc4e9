//! CRIU options that a pod may ask for, and where each of them is valid.
//!
//! ```text
//!   "ghost-limit=4G file-validation=filesize"
//!        └▶ criu dump --ghost-limit 4G              └▶ CRIU's configuration of the restore: file-validation filesize
//! ```
//! Everything else is refused: what Godwit says itself, and what names files of the node (`action-script`, `plugin`).

use crate::Failure;

/// What an option takes.
#[derive(Clone, Copy, Debug)]
enum Value {
    Nothing,
    /// Bytes, with K, M or G behind it; at most [`MOST`].
    Size,
    /// At least 1, at most 60.
    Seconds,
    OneOf(&'static [&'static str]),
}

/// Where CRIU heeds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Dump,
    Restore,
}

/// Removed files go into the images, and these into memory: 4 GiB.
const MOST: u64 = 4 << 30;

/// criu(8), of CRIU 4.2.
const ALLOWED: [(&str, Value, Place); 6] = [
    ("ghost-limit", Value::Size, Place::Dump),
    ("timeout", Value::Seconds, Place::Dump),
    ("force-irmap", Value::Nothing, Place::Dump),
    ("evasive-devices", Value::Nothing, Place::Dump),
    ("file-validation", Value::OneOf(&["filesize", "buildid"]), Place::Restore),
    ("skip-file-rwx-check", Value::Nothing, Place::Restore),
];

/// Such options, understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    dump: Vec<String>,
    restore: Vec<String>,
}

impl Options {
    /// Reads `option` and `option=value`, with spaces between them.
    ///
    /// # Errors
    /// Names the first that is not allowed, or whose value is none.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let mut options = Self::default();
        for word in text.split_whitespace() {
            let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
            let Some((name, wanted, place)) = ALLOWED.into_iter().find(|(allowed, ..)| *allowed == name) else {
                return Err(refused(format!("{name} is no option that a pod may ask for")));
            };
            if !wanted.takes(value) {
                return Err(refused(format!("{word}: {name} takes {}", wanted.words())));
            }
            match place {
                Place::Dump => {
                    options.dump.push(format!("--{name}"));
                    options.dump.extend(value.map(str::to_owned));
                }
                Place::Restore => options.restore.push(value.map_or_else(|| name.to_owned(), |value| format!("{name} {value}"))),
            }
        }
        Ok(options)
    }

    /// Arguments of `criu dump`, behind those that are the same for every container: the last of one name counts.
    #[must_use]
    pub fn dump(&self) -> &[String] {
        &self.dump
    }

    /// Lines of CRIU's configuration of a restore, likewise.
    #[must_use]
    pub fn restore(&self) -> &[String] {
        &self.restore
    }
}

impl Value {
    fn takes(self, value: Option<&str>) -> bool {
        match (self, value) {
            (Self::Nothing, value) => value.is_none(),
            (Self::Size, Some(value)) => {
                let shift = [('K', 10), ('M', 20), ('G', 30)].into_iter().find(|(unit, _)| value.ends_with(*unit)).map_or(0, |(_, shift)| shift);
                let digits = value.strip_suffix(['K', 'M', 'G']).unwrap_or(value);
                // Without a sign, which `parse` would take.
                digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u64>().is_ok_and(|number| (1..=MOST >> shift).contains(&number))
            }
            (Self::Seconds, Some(value)) => value.parse::<u8>().is_ok_and(|seconds| (1..=60).contains(&seconds)),
            (Self::OneOf(words), Some(value)) => words.contains(&value),
            (_, None) => false,
        }
    }

    fn words(self) -> String {
        match self {
            Self::Nothing => "no value".into(),
            Self::Size => "a size in bytes, or with K, M or G behind it, up to 4G".into(),
            Self::Seconds => "1 to 60 seconds".into(),
            Self::OneOf(words) => words.join(" or "),
        }
    }
}

fn refused(message: String) -> Failure {
    let allowed = ALLOWED.map(|(name, ..)| name).join(", ");
    Failure::new("CriuOptionRefused", message, &format!("Use only these: {allowed}; or make the pod without the annotation."))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_goes_where_it_is_valid() {
        let options = Options::parse(" ghost-limit=4G  timeout=30 force-irmap file-validation=filesize ").unwrap();
        assert_eq!(options.dump(), ["--ghost-limit", "4G", "--timeout", "30", "--force-irmap"]);
        assert_eq!(options.restore(), ["file-validation filesize"]);
        assert_eq!(Options::parse("").unwrap(), Options::default());
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "action-script=/x",
            "tcp-close",
            "--ghost-limit=1G",
            "ghost-limit",
            "ghost-limit=1T",
            "ghost-limit=5G",
            "ghost-limit=+1G",
            "ghost-limit=G",
            "ghost-limit=-1",
            "timeout=0",
            "timeout=61",
            "force-irmap=1",
            "file-validation=none",
            "=1",
        ] {
            assert_eq!(Options::parse(text).unwrap_err().reason, "CriuOptionRefused", "{text}");
        }
    }
}
