//! A layout on disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

use serde::de::DeserializeOwned;

use crate::archive::Compression;
use crate::fs::Dir;

use super::document::Index;
use super::{Config, Descriptor, Manifest, OciDigest, OciError, Platform, Verified};

/// Bytes of a document. Registries take 4 MiB.
const MAX_DOCUMENT: u64 = 4 * 1024 * 1024;

/// Layers of an image. Container engines stop at 127.
const MAX_LAYERS: usize = 1024;

/// Indexes in indexes.
const MAX_NESTING: usize = 4;

pub(super) const LAYOUT: &str = "oci-layout";
pub(super) const INDEX: &str = "index.json";
pub(super) const BLOBS: &str = "blobs/sha256";

/// An image layout.
#[derive(Debug)]
pub struct Layout {
    pub(super) dir: Dir,
    /// Whether it was not there before.
    pub(super) made: bool,
}

/// An image in a layout.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Image {
    /// Its manifest.
    pub manifest: Descriptor,
    /// Labels of its configuration.
    pub labels: BTreeMap<String, String>,
    /// Its layers, the lowest first.
    pub(crate) layers: Vec<Layer>,
}

/// A layer of an image.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) descriptor: Descriptor,
    /// How it is compressed.
    pub(crate) compression: Compression,
    /// The digest of the archive in it.
    pub(crate) diff_id: OciDigest,
}

impl Layout {
    /// Opens a layout.
    pub fn open(dir: Dir) -> Result<Self, OciError> {
        let layout = Self { dir, made: false };
        let bytes = layout.dir.read(LAYOUT, MAX_DOCUMENT as usize)?;
        let marker: BTreeMap<String, serde_json::Value> = layout.parse(LAYOUT, &bytes)?;
        match marker
            .get("imageLayoutVersion")
            .and_then(|version| version.as_str())
        {
            Some(version) if version.starts_with("1.") => Ok(layout),
            _ => Err(layout.wrong(LAYOUT, "it is not of version 1")),
        }
    }

    pub(crate) const fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Finds the image `name`, or the only one; of several platforms, that for `platform`, or for this machine.
    pub fn image(&self, name: Option<&str>, platform: Option<&Platform>) -> Result<Image, OciError> {
        let index: Index = self.index()?;
        let mut named: Vec<Descriptor> = index
            .manifests
            .iter()
            .filter(|descriptor| name.is_none() || descriptor.name() == name)
            .cloned()
            .collect();
        let found: Vec<String> = index
            .manifests
            .iter()
            .map(|descriptor| {
                let name = descriptor.name().unwrap_or("(without a name)");
                name.escape_debug().to_string()
            })
            .collect();
        let path = || self.dir.path().to_owned();
        if named.len() > 1 && name.is_none() && named.iter().any(|image| image.name().is_some()) {
            return Err(OciError::Ambiguous { path: path(), found });
        }
        let own = Platform::own();
        let wanted = platform.unwrap_or(&own);
        for _ in 0..MAX_NESTING {
            // One image that says nothing of platforms is for whoever asks.
            let alone = named.len() == 1 && (platform.is_none() || named[0].platform.is_none());
            let chosen = named.iter().position(|descriptor| {
                alone
                    || descriptor
                        .platform
                        .as_ref()
                        .is_some_and(|platform| wanted.accepts(platform))
            });
            let Some(chosen) = chosen else {
                return Err(OciError::NotFound {
                    path: path(),
                    wanted: match name {
                        Some(name) => format!("{} for {wanted}", name.escape_debug()),
                        None => format!("for {wanted}"),
                    },
                    found,
                });
            };
            let descriptor = named.swap_remove(chosen);
            if descriptor.is_index() {
                let index: Index = self.document(&descriptor)?;
                named = index.manifests;
                continue;
            }
            if !descriptor.is_manifest() {
                let rule = format!("{} is no image", descriptor.media_type.escape_debug());
                return Err(self.wrong(INDEX, rule));
            }
            return self.manifest(descriptor);
        }
        Err(self.wrong(INDEX, "it has indexes in indexes in indexes"))
    }

    fn manifest(&self, descriptor: Descriptor) -> Result<Image, OciError> {
        let manifest: Manifest = self.document(&descriptor)?;
        let config: Config = self.document(&manifest.config)?;
        let wrong = |rule: String| self.wrong(&descriptor.digest, rule);
        if manifest.layers.len() > MAX_LAYERS || manifest.layers.len() != config.rootfs.diff_ids.len() {
            let rule = "its layers are not those of its configuration, or more than 1024";
            return Err(wrong(rule.to_owned()));
        }
        let mut layers = Vec::new();
        for (layer, diff_id) in manifest.layers.into_iter().zip(&config.rootfs.diff_ids) {
            let compression = compression_of(&layer.media_type).ok_or_else(|| {
                wrong(format!(
                    "it has a layer of the type {}, which is not known",
                    layer.media_type.escape_debug()
                ))
            })?;
            let diff_id = OciDigest::parse(diff_id)
                .ok_or_else(|| wrong(format!("{} is no digest", diff_id.escape_debug())))?;
            layers.push(Layer {
                descriptor: layer,
                compression,
                diff_id,
            });
        }
        Ok(Image {
            manifest: descriptor,
            labels: config.config.and_then(|config| config.labels).unwrap_or_default(),
            layers,
        })
    }

    /// Opens a blob, which is verified while it is read.
    pub(crate) fn open_blob(&self, descriptor: &Descriptor) -> Result<Verified<File>, OciError> {
        let digest = OciDigest::parse(&descriptor.digest).ok_or_else(|| OciError::Blob {
            digest: descriptor.digest.escape_debug().to_string(),
            rule: "that is no digest, or not of SHA-256 or SHA-512".to_owned(),
        })?;
        let file = self.dir.open_file(digest.path())?;
        Ok(Verified::new(file, digest, descriptor.size))
    }

    /// Reads a blob that is a document.
    fn document<T: DeserializeOwned>(&self, descriptor: &Descriptor) -> Result<T, OciError> {
        if descriptor.size > MAX_DOCUMENT {
            return Err(OciError::Blob {
                digest: descriptor.digest.escape_debug().to_string(),
                rule: "it is a document of more than 4 MiB".to_owned(),
            });
        }
        let mut blob = self.open_blob(descriptor)?;
        let mut bytes = Vec::new();
        blob.read_to_end(&mut bytes).map_err(|error| OciError::Blob {
            digest: descriptor.digest.clone(),
            rule: format!("it cannot be read: {error}"),
        })?;
        blob.finish()?;
        self.parse(&descriptor.digest, &bytes)
    }

    pub(super) fn index(&self) -> Result<Index, OciError> {
        let bytes = self.dir.read(INDEX, MAX_DOCUMENT as usize)?;
        let index: Index = self.parse(INDEX, &bytes)?;
        if index.schema_version != 2 {
            return Err(self.wrong(INDEX, "it is not of version 2"));
        }
        Ok(index)
    }

    fn parse<T: DeserializeOwned>(&self, name: &str, bytes: &[u8]) -> Result<T, OciError> {
        serde_json::from_slice(bytes).map_err(|error| self.wrong(name, error.to_string()))
    }

    pub(super) fn wrong(&self, name: &str, rule: impl Into<String>) -> OciError {
        OciError::Document {
            path: self.dir.path().join(name),
            rule: rule.into(),
        }
    }
}

/// Returns how a layer of this type is compressed; `None` for what is no layer.
fn compression_of(media_type: &str) -> Option<Compression> {
    Some(match media_type {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar" => Compression::None,
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Compression::Gzip,
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Compression::Zstd,
        _ => return None,
    })
}
