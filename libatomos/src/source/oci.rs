//! An image as layers.

use crate::archive::{Compression, Decompressed};
use crate::oci::{Hashing, Image, Layout};

use super::overlay::{Overlay, Paths};
use super::tar::{self, Keep};
use super::{SourceError, archive_error};

/// Reads the layers of an image over what there is. Nothing of it counts before every digest was right.
pub(super) fn apply(
    overlay: &mut Overlay,
    layout: &Layout,
    image: &Image,
    keep: &mut Keep<'_>,
) -> Result<(), SourceError> {
    for layer in &image.layers {
        overlay.begin_layer();
        let name = layout.dir().path().join(&layer.descriptor.digest);
        let mut blob = layout.open_blob(&layer.descriptor)?;
        let plain = Decompressed::new(&mut blob).map_err(|error| archive_error(&name, error))?;
        let found = plain.compression();
        // Nobody says of an archive what it is not, but an empty one has no bytes to tell it by.
        if found != layer.compression && found != Compression::None {
            return Err(SourceError::Layer {
                name: layer.descriptor.digest.clone(),
                rule: format!(
                    "it is compressed in another way than {} says",
                    layer.descriptor.media_type
                ),
            });
        }
        let mut plain = Hashing::like(plain, &layer.diff_id);
        let applied = tar::apply_plain(overlay, &mut plain, Paths::Rooted, keep);
        let (diff_id, _) = plain.digest();
        drop(plain);
        match applied {
            Ok(()) => blob.finish()?,
            // Damage shows as an archive that makes no sense; then the blob is what is bad.
            Err(SourceError::Tar(error)) => {
                blob.finish()?;
                return Err(SourceError::Tar(error).in_archive(&name));
            }
            Err(error) => return Err(error),
        }
        if diff_id != layer.diff_id {
            return Err(SourceError::Layer {
                name: layer.descriptor.digest.clone(),
                rule: format!("it unpacks to {diff_id}, and the image says {}", layer.diff_id),
            });
        }
    }
    Ok(())
}
