//! Paths in reports: JSON is text, and a path need not be.
//!
//! What is no UTF-8 is replaced. A report comes when all is done, and one that could not be written would say that nothing was.

use std::path::{Path, PathBuf};

use serde::Serializer;

/// Writes a path.
pub(crate) fn one<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// Writes a list of paths.
pub(crate) fn all<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.display().to_string()))
}

/// Writes a path, if there is one.
pub(crate) fn optional<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => one(path, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[derive(serde::Serialize)]
    struct Report {
        #[serde(serialize_with = "one")]
        at: PathBuf,
        #[serde(serialize_with = "all")]
        left_out: Vec<PathBuf>,
        #[serde(serialize_with = "optional")]
        to: Option<PathBuf>,
    }

    #[test]
    fn what_is_no_text_is_written_all_the_same() {
        let odd = PathBuf::from(OsStr::from_bytes(b"x\xff"));
        let report = Report {
            at: odd.clone(),
            left_out: vec![odd, "plain".into()],
            to: None,
        };
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            "{\"at\":\"x\u{fffd}\",\"left_out\":[\"x\u{fffd}\",\"plain\"],\"to\":null}"
        );
    }
}
