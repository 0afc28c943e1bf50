//! Writing a tree as an image of one layer.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Serialize;

use crate::cancel::Cancel;
use crate::digest::CommitId;
use crate::oci::{Config, Descriptor, Hashing, History, Layout, Manifest, Platform, RootFs, Runtime};
use crate::progress::Progress;
use crate::repo::Repo;

use super::tar::{Compressor, Whiteouts, write_tree};
use super::{ExportCompression, ExportError, ExportReport};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// How to make an image.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ImageOptions {
    /// How the layer is compressed.
    pub compression: ExportCompression,
    /// The image's name in the layout.
    pub name: Option<String>,
    /// Which machines it is for.
    pub platform: Platform,
}

impl Default for ImageOptions {
    fn default() -> Self {
        Self {
            compression: ExportCompression::Gzip,
            name: None,
            platform: Platform::own(),
        }
    }
}

/// What image was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct ImageReport {
    /// What was exported.
    #[serde(flatten)]
    pub export: ExportReport,
    /// The digest of the image's manifest.
    pub manifest: String,
    /// The digest of its layer.
    pub layer: String,
    /// Bytes of the layer, compressed.
    pub layer_size: u64,
}

/// Writes the tree of a commit as an image of one layer into a layout.
///
/// The image says of which commit it is, in labels and annotations. It depends on the commit, the options and nothing else.
/// Takes the shared lock, and for a moment that of the layout, so that others may export into it meanwhile. The visible step is the
/// replacement of `index.json`; blobs that were written before it are in nobody's way. Where it fails, an empty layout that was made
/// for it is removed.
pub fn export_image(
    repo: &Repo,
    id: &CommitId,
    layout: &Layout,
    options: &ImageOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<ImageReport, ExportError> {
    let exported = write_image(repo, id, layout, options, progress, cancel);
    if exported.is_err() {
        // The error that matters is the one there is.
        let _ = layout.remove_unused();
    }
    exported
}

fn write_image(
    repo: &Repo,
    id: &CommitId,
    layout: &Layout,
    options: &ImageOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<ImageReport, ExportError> {
    let _shared = repo.lock_shared()?;
    let commit = repo.load_commit(id)?;
    let new = layout.begin_layer()?;
    let compressed =
        Compressor::new(Hashing::sha256(new.file()), options.compression).map_err(ExportError::Write)?;
    let mut plain = Hashing::sha256(compressed);
    let export = write_tree(repo, id, Whiteouts::Refused, &mut plain, progress, cancel)?;
    plain.flush().map_err(ExportError::Write)?;
    let (diff_id, _) = plain.digest();
    let compressed = plain.into_inner().finish().map_err(ExportError::Write)?;
    let (digest, layer_size) = compressed.digest();
    let publishing = layout.publishing(|dir, what| repo.lock_dir(dir, what))?;
    publishing.place(new, &digest)?;
    let suffix = match options.compression {
        ExportCompression::None => "",
        ExportCompression::Gzip => "+gzip",
        ExportCompression::Zstd => "+zstd",
    };
    let created = crate::oci::rfc3339(commit.time);
    let mut labels = BTreeMap::from([
        ("org.opencontainers.image.revision".to_owned(), id.to_string()),
        ("atomos.commit".to_owned(), id.to_string()),
        ("atomos.tree".to_owned(), commit.root.to_string()),
    ]);
    let mut label = |key: &str, value: &str| {
        if !value.is_empty() {
            labels.insert(key.to_owned(), value.to_owned());
        }
    };
    label("org.opencontainers.image.version", &commit.version);
    label("org.opencontainers.image.description", &commit.subject);
    let config = publishing.write_config(&Config {
        created: created.clone(),
        architecture: options.platform.architecture.clone(),
        os: options.platform.os.clone(),
        variant: options.platform.variant.clone(),
        config: Some(Runtime {
            labels: Some(labels.clone()),
        }),
        rootfs: RootFs {
            kind: "layers".to_owned(),
            diff_ids: vec![diff_id.to_string()],
        },
        history: vec![History {
            created,
            created_by: Some("atomos export".to_owned()),
            comment: (!commit.subject.is_empty()).then(|| commit.subject.clone()),
        }],
    })?;
    let layer = Descriptor::new(&format!("{LAYER}{suffix}"), &digest.to_string(), layer_size);
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let mut manifest = publishing.write_document(
        media_type,
        &Manifest {
            schema_version: 2,
            media_type: Some(media_type.to_owned()),
            config,
            layers: vec![layer],
            annotations: labels,
        },
    )?;
    manifest.platform = Some(options.platform.clone());
    let digest_of_manifest = manifest.digest.clone();
    publishing.publish(manifest, options.name.as_deref())?;
    Ok(ImageReport {
        export,
        manifest: digest_of_manifest,
        layer: digest.to_string(),
        layer_size,
    })
}
