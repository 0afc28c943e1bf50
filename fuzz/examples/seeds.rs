//! Writes real inputs into the corpus of each target: `fuzz/corpus/TARGET/seed-NN`.

use std::path::Path;

use atomos_fuzz::{Laws, Parser};
use libatomos::testing::decode;

fn main() {
    let laws = Laws::new();
    for (parser, target) in Parser::ALL {
        write(target, laws.seeds(parser));
    }
    write("tar", decode::archive_seeds());
    write("oci", decode::layout_seeds());
    write("ostree", decode::ostree_seeds());
    write("stat_cache", decode::stat_cache_seeds());
    // A tree's table is its commit and its dirtrees, each after its length.
    let (mut commits, mut dirtrees) = (Vec::new(), Vec::new());
    for table in laws.seeds(Parser::Tree) {
        let mut objects = objects(&table);
        commits.push(objects.remove(0));
        dirtrees.append(&mut objects);
    }
    let hex = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
    let text = |text: String| vec![text.into_bytes()];
    write("commit", commits);
    write("dirtree", dirtrees);
    write(
        "refs",
        text(format!("{hex} os/stable\n{hex} origin:os/testing\n")),
    );
    write("aliases", text("debian/13 latest\nlatest stable\n".to_owned()));
    write(
        "root",
        text(format!("{{\"commits\": [\"{hex}\"], \"blobs\": [\"{hex}\"]}}")),
    );
    let features = "[features]\ncompatible = []\nread-only-compatible = []\nincompatible = []\n";
    write(
        "config",
        text(format!(
            "format = 1\nmode = \"bare\"\nid = \"{}\"\n\n{features}",
            &hex[..32]
        )),
    );
    write(
        "names",
        ["origin:os/stable", "main", hex]
            .map(|name| name.as_bytes().to_vec())
            .into(),
    );
    let remote = "urls = [\"https://a.example/os\", \"file:///srv/site\"]\nno-verify = true\nproxy = \"http://p.example:3128\"\n";
    write("remote", text(remote.to_owned()));
}

fn objects(mut table: &[u8]) -> Vec<Vec<u8>> {
    let mut objects = Vec::new();
    while let Some((len, rest)) = table.split_first_chunk::<4>() {
        let (object, rest) = rest.split_at(u32::from_le_bytes(*len) as usize);
        objects.push(object.to_vec());
        table = rest;
    }
    objects
}

fn write(target: &str, seeds: Vec<Vec<u8>>) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    std::fs::create_dir_all(&dir).expect("the corpus can be written");
    for (number, seed) in seeds.iter().enumerate() {
        std::fs::write(dir.join(format!("seed-{number:02}")), seed).expect("the corpus can be written");
    }
    println!("{target}: {} seeds", seeds.len());
}
