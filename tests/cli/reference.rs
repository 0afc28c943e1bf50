use std::path::Path;

use crate::common::Scratch;

#[test]
fn the_document_is_what_the_program_prints() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let printed = Scratch::empty().atomos(&["reference"]).ok();
    assert!(
        kept == printed,
        "docs/cli.md is not up to date; write it again: cargo run -p atomos-cli -- reference > docs/cli.md"
    );
}
