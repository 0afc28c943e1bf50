//! A partition table as a BIOS and an EFI firmware read it: a master boot record.

use anyhow::{Context, Result, ensure};

use super::{FileSystem, Partition, SECTOR};

const CODE_LEN: usize = 440;
const TABLE: usize = 446;
const ENTRY_LEN: usize = 16;
const ENTRIES: usize = 4;

/// The first sector: boot code, and a table of partitions. The first one is the active one.
pub fn master_boot_record(
    code: &[u8; CODE_LEN],
    partitions: &[(Partition, FileSystem)],
) -> Result<[u8; 512]> {
    ensure!(partitions.len() <= ENTRIES, "a partition table has four entries");
    let mut sector = [0; 512];
    sector[..CODE_LEN].copy_from_slice(code);
    for (index, (partition, file_system)) in partitions.iter().enumerate() {
        let entry = &mut sector[TABLE + index * ENTRY_LEN..][..ENTRY_LEN];
        entry[0] = if index == 0 { 0x80 } else { 0 };
        // Cylinders, heads and sectors are given up on: "see the linear fields".
        entry[1..4].copy_from_slice(&[0xfe, 0xff, 0xff]);
        entry[4] = file_system.partition_type();
        entry[5..8].copy_from_slice(&[0xfe, 0xff, 0xff]);
        let sectors =
            |bytes: u64| u32::try_from(bytes / SECTOR).context("the disk is too large for its table");
        entry[8..12].copy_from_slice(&sectors(partition.start)?.to_le_bytes());
        entry[12..16].copy_from_slice(&sectors(partition.len())?.to_le_bytes());
    }
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    Ok(sector)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_partition_table_names_the_ranges_in_sectors() {
        let code = [0x90; CODE_LEN];
        let partition = |start, end| Partition { start, end };
        let sector = master_boot_record(
            &code,
            &[
                (partition(MIB, 256 * MIB), FileSystem::Vfat),
                (partition(256 * MIB, 1024 * MIB), FileSystem::Xfs),
            ],
        )
        .unwrap();
        assert_eq!(sector[..440], code);
        assert_eq!(sector[446], 0x80, "the first partition is the active one");
        assert_eq!(sector[446 + 4], 0xef);
        assert_eq!(sector[446 + 8..446 + 16], [0, 8, 0, 0, 0, 0xf8, 7, 0]);
        assert_eq!((sector[462], sector[462 + 4]), (0, 0x83));
        assert_eq!(sector[462 + 8..462 + 12], (256 * 2048_u32).to_le_bytes());
        assert_eq!(sector[478..510], [0; 32], "the other two entries are empty");
        assert_eq!(sector[510..], [0x55, 0xaa]);
    }

    #[test]
    fn what_a_table_cannot_say_is_an_error() {
        let code = [0; CODE_LEN];
        let one = (Partition { start: 0, end: MIB }, FileSystem::Ext4);
        assert!(master_boot_record(&code, &[one; 5]).is_err());
        let far = Partition {
            start: 3 << 40,
            end: 4 << 40,
        };
        assert!(master_boot_record(&code, &[(far, FileSystem::Ext4)]).is_err());
    }
}
