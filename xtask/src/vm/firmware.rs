//! What runs before the loader.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// OVMF's code.
pub const CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
/// Its variables, as the machine's maker delivers them.
const VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// The firmware of a machine.
#[derive(Debug, Clone)]
pub enum Firmware {
    /// QEMU's BIOS.
    Bios,
    /// OVMF, with this machine's variables.
    Uefi {
        /// The file that keeps them.
        variables: PathBuf,
    },
}

impl Firmware {
    /// An EFI firmware that nobody has used, with its variables in `work`.
    ///
    /// # Errors
    /// If the file cannot be copied.
    pub fn new_uefi(work: &Path) -> Result<Self> {
        let variables = work.join("efi-variables.fd");
        std::fs::copy(VARIABLES, &variables).with_context(|| format!("cannot copy {VARIABLES}"))?;
        Ok(Self::Uefi { variables })
    }

    /// QEMU's arguments for it.
    pub fn arguments(&self) -> Vec<String> {
        match self {
            Self::Bios => Vec::new(),
            Self::Uefi { variables } => vec![
                "-drive".to_owned(),
                format!("if=pflash,unit=0,format=raw,readonly=on,file={CODE}"),
                "-drive".to_owned(),
                format!("if=pflash,unit=1,format=raw,file={}", variables.display()),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bios_needs_no_arguments_and_the_code_of_an_efi_firmware_is_not_written_to() {
        assert!(Firmware::Bios.arguments().is_empty());
        let variables = PathBuf::from("vars");
        let arguments = Firmware::Uefi { variables }.arguments();
        assert!(arguments[1].contains("readonly=on") && arguments[1].contains(CODE));
        assert!(!arguments[3].contains("readonly") && arguments[3].ends_with("file=vars"));
    }
}
