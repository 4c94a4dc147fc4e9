//! Names of files inside archives.

/// A name without `./` and doubled slashes; `None` if it leads out of the archive or is not UTF-8.
#[must_use]
pub fn clean(name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?;
    if name.starts_with('/') {
        return None;
    }
    let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") || parts.is_empty() { None } else { Some(parts.join("/")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside() {
        assert_eq!(clean(b"./checkpoint//core-1.img").as_deref(), Some("checkpoint/core-1.img"));
        for outside in [&b"/etc/passwd"[..], b"checkpoint/../../x", b"..", b"", b"./", &[0xff]] {
            assert_eq!(clean(outside), None, "{outside:?}");
        }
    }
}
