//! A site with many releases behind it.
//!
//! One package after another goes to its newer version; each time a release is published. Then clients come: one with nothing, one
//! with the release before, one from five back, for which nobody made patches.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::line::{Line, Pulled};
use super::ring::{REF, Ring};
use super::update;
use crate::bench::measure::{Series, time};
use crate::debian::{Package, Packages};
use crate::process::run;

/// By how many releases clients are behind, whose pulls are measured: what docs/scale.md counts with.
const BEHIND: [usize; 12] = [1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 48, 96];

/// What was measured.
#[derive(Debug)]
pub struct History {
    /// How many releases there were.
    pub releases: usize,
    /// By a client with nothing.
    pub full: Pulled,
    /// From the release before.
    pub one_back: Pulled,
    /// From five back.
    pub five_back: Pulled,
    /// The same, after patches were made for that pair.
    pub five_back_with_patches: Pulled,
    /// By how many releases the client is behind, as far as there are that many.
    pub behind: Vec<(usize, Pulled)>,
    /// Nothing new.
    pub nothing: Pulled,
    /// Times of publishing a release, the first and the last left out, without an image.
    pub publish: Series,
    /// Bytes of the whole site, and of its packs.
    pub site_bytes: (u64, u64),
    /// Files in the site.
    pub site_files: u64,
    /// The record, the release and the manifest, in bytes.
    pub metadata: [u64; 3],
}

/// Makes a history of `releases` and measures.
///
/// # Errors
/// If a tool fails.
pub fn measure(
    place: &Path,
    atomos: &Path,
    first: &Path,
    packages: &Packages,
    releases: usize,
) -> Result<History> {
    let ring = Ring::prepare(place, atomos)?;
    let tree = ring.path("tree");
    run(Command::new("cp").arg("-a").args([first, &tree]))?;
    let updated = order(packages, releases);
    let mut publish = Series::default();
    let mut commits = Vec::new();
    for number in 0..releases {
        // The first release is as it was; then each takes its share.
        let share = |number: usize| updated.len() * number / (releases - 1);
        if number > 0 {
            for package in &updated[share(number - 1)..share(number)] {
                update(&tree, package)?;
            }
        }
        let stamp = tree.join("usr/lib/release-number");
        std::fs::write(&stamp, format!("{number}\n"))
            .with_context(|| format!("cannot write {}", stamp.display()))?;
        commits.push(ring.commit("repo", &tree, &number.to_string())?);
        // Of images a site keeps the newest one alone; the others would be made to be thrown away.
        let image: &[&str] = if number + 1 < releases {
            &["--no-image"]
        } else {
            &[]
        };
        let elapsed = time(&mut ring.publish_to("repo", "site", image))?;
        if number > 0 && number + 1 < releases {
            publish.push(elapsed);
        }
        if number % 10 == 0 {
            eprintln!("  release {number}: {:.2} s", elapsed.as_secs_f64());
        }
    }
    let newest = commits.len() - 1;
    let pull = |from: Option<usize>| -> Result<Pulled> {
        let commit = from.map(|from| commits[from].as_str());
        ring.begin_client(&ring.path("site"), commit, "client")?;
        pull_now(&ring)
    };
    let full = pull(None)?;
    let one_back = pull(Some(newest - 1))?;
    let nothing = pull_now(&ring)?;
    let five_back = pull(Some(newest - 5))?;
    let mut behind = Vec::new();
    for back in BEHIND.into_iter().filter(|back| *back <= newest) {
        behind.push((back, pull(Some(newest - back))?));
    }
    let (site_bytes, site_files) = size(&ring.path("site"))?;
    let metadata = metadata(&ring)?;
    time(&mut ring.publish_to(
        "repo",
        "site",
        &["--patch-from", &commits[newest - 5], "--no-image"],
    ))?;
    let five_back_with_patches = pull(Some(newest - 5))?;
    let history = History {
        releases,
        full,
        one_back,
        five_back,
        five_back_with_patches,
        behind,
        nothing,
        publish,
        site_bytes,
        site_files,
        metadata,
    };
    eprintln!("  {history:?}");
    run(Command::new("rm")
        .args(["-rf", "--one-file-system", "--"])
        .arg(place))?;
    Ok(history)
}

fn pull_now(ring: &Ring) -> Result<Pulled> {
    let line = Line::start(&ring.path("site"), Duration::ZERO)?;
    ring.set_remote("client", &line.url())?;
    line.pull(&mut ring.atomos("client", &["pull", "origin", REF]))
}

/// The packages that change, in an order that has nothing to do with their names, and with the kernel, which is most of the
/// change, within the last five releases.
fn order(packages: &Packages, releases: usize) -> Vec<&Package> {
    let mut updated: Vec<&Package> = packages
        .packages
        .iter()
        .filter(|package| package.is_updated())
        .collect();
    updated.sort_by_key(|package| *blake3::hash(package.name.as_bytes()).as_bytes());
    if let Some(kernel) = updated.iter().position(|package| package.name == "linux-image") {
        let kernel = updated.remove(kernel);
        let place = updated.len() - (updated.len() * 2 / releases.max(3)).min(updated.len());
        updated.insert(place, kernel);
    }
    updated
}

/// Bytes of the site and of its packs; files.
fn size(site: &Path) -> Result<((u64, u64), u64)> {
    let packs = crate::debian::measure(&site.join("packs"))?;
    let all = crate::debian::measure(site)?;
    Ok(((all.bytes, packs.bytes), all.files))
}

fn metadata(ring: &Ring) -> Result<[u64; 3]> {
    let length = |path: &Path| -> Result<u64> {
        Ok(path
            .metadata()
            .with_context(|| format!("cannot look at {}", path.display()))?
            .len())
    };
    let newest = |name: &str| -> Result<u64> {
        let directory = ring.path("site").join(name);
        let mut files = Vec::new();
        for entry in
            std::fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))?
        {
            let path = entry
                .with_context(|| format!("cannot list {}", directory.display()))?
                .path();
            files.push(length(&path)?);
        }
        // Releases grow with the history; a whole manifest is the largest of its kind.
        Ok(files.into_iter().max().unwrap_or_default())
    };
    Ok([
        length(&ring.path("site").join("refs").join(REF))?,
        newest("releases")?,
        newest("manifests")?,
    ])
}

/// What clients ask for who are behind, and how large the small files are, for `cargo xtask scale`.
#[must_use]
pub fn to_json(history: &History) -> serde_json::Value {
    let pulled = |pulled: &Pulled| serde_json::json!({ "requests": pulled.requests, "bytes": pulled.bytes });
    let behind: Vec<_> = history
        .behind
        .iter()
        .map(|(back, pull)| {
            let mut value = pulled(pull);
            value["behind"] = (*back).into();
            value
        })
        .collect();
    serde_json::json!({
        "releases": history.releases,
        "full": pulled(&history.full),
        "nothing": pulled(&history.nothing),
        "behind": behind,
        "record": history.metadata[0],
        "release": history.metadata[1],
        "manifest": history.metadata[2],
        "site": history.site_bytes.0,
        "packs": history.site_bytes.1,
        "files": history.site_files,
    })
}

/// Sizes of the small files after `releases` releases of a tree of one file, in `refs` refs: record, release, and the
/// directory's number of files. What grows with time and not with the tree.
///
/// # Errors
/// If a tool fails.
pub fn measure_age(place: &Path, atomos: &Path, releases: usize) -> Result<serde_json::Value> {
    let ring = Ring::prepare(place, atomos)?;
    let tree = ring.path("tree");
    std::fs::create_dir_all(&tree).with_context(|| format!("cannot make {}", tree.display()))?;
    let mut rows = Vec::new();
    for number in 1..=releases {
        std::fs::write(tree.join("file"), number.to_string()).context("cannot write a file")?;
        ring.commit("repo", &tree, &number.to_string())?;
        time(&mut ring.publish_to("repo", "site", &[]))?;
        if [1, 10, 100, 1000].contains(&number) || number == releases {
            let [record, release, manifest] = metadata(&ring)?;
            let files = size(&ring.path("site"))?.1;
            rows.push(serde_json::json!({
                "releases": number, "record": record, "release": release, "manifest": manifest, "files": files,
            }));
        }
    }
    run(Command::new("rm")
        .args(["-rf", "--one-file-system", "--"])
        .arg(place))?;
    Ok(rows.into())
}
