//! Reads, writes and flushes as NVMe commands, past the block layer.
//!
//! The command is `struct nvme_uring_cmd` of `linux/nvme_ioctl.h`, carried in the command area of a
//! wide entry for the namespace's character device (`/dev/ng0n1`). A command is not split by the
//! kernel, so the ring does it: at most [`Namespace::transfer_bytes_max`] each, one after the other.

use rustix::io::Errno;

use crate::op::COMMAND_BYTES;

/// `NVME_URING_CMD_IO`: `_IOWR('N', 0x80, struct nvme_uring_cmd)`.
pub(crate) const NVME_URING_CMD_IO: u32 = 3 << 30 | 72 << 16 | 0x4e << 8 | 0x80;

const OPCODE_FLUSH: u8 = 0;
const OPCODE_WRITE: u8 = 1;
const OPCODE_READ: u8 = 2;

/// How to address a namespace: from sysfs, or an Identify command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace {
    id: u32,
    block_shift: u32,
    transfer_bytes_max: u32,
    pub(crate) fixed_buffers: bool,
}

impl Namespace {
    /// A namespace of this id, with blocks of `block_bytes` (512 to 4,096) and without metadata in
    /// them, whose commands transfer at most `transfer_bytes_max`. `None` when that cannot be.
    #[must_use]
    pub fn new(id: u32, block_bytes: u32, transfer_bytes_max: u32) -> Option<Namespace> {
        let fits = block_bytes.is_power_of_two() && (512..=4096).contains(&block_bytes);
        let transfer_bytes_max = transfer_bytes_max / 4096 * 4096;
        (fits && id != 0 && transfer_bytes_max > 0).then_some(Namespace {
            id,
            block_shift: block_bytes.trailing_zeros(),
            transfer_bytes_max,
            fixed_buffers: true,
        })
    }

    /// The same, with memory that is mapped for each command. Linux 6.1 counts the pages of all of a
    /// registered pool against the device's limit, and so refuses commands with fixed buffers.
    #[must_use]
    pub fn without_fixed_buffers(self) -> Namespace {
        Namespace { fixed_buffers: false, ..self }
    }
}

/// What a command is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Request {
    Flush,
    Read { offset: u64, addr: u64, bytes: u32 },
    Write { offset: u64, addr: u64, bytes: u32 },
}

/// The command area, and how many bytes the command transfers.
///
/// # Errors
/// INVAL when offset or length are not whole blocks of the namespace.
pub(crate) fn command(
    namespace: &Namespace,
    request: Request,
) -> Result<([u8; COMMAND_BYTES], u32), Errno> {
    let mut data = [0; COMMAND_BYTES];
    let mut put = |at: usize, bytes: &[u8]| data[at..at + bytes.len()].copy_from_slice(bytes);
    put(4, &namespace.id.to_ne_bytes());
    let (opcode, offset, addr, bytes) = match request {
        Request::Flush => {
            put(0, &[OPCODE_FLUSH]);
            return Ok((data, 0));
        }
        Request::Read { offset, addr, bytes } => (OPCODE_READ, offset, addr, bytes),
        Request::Write { offset, addr, bytes } => (OPCODE_WRITE, offset, addr, bytes),
    };
    let bytes = bytes.min(namespace.transfer_bytes_max);
    let block_bytes = 1u32 << namespace.block_shift;
    let whole = offset.is_multiple_of(block_bytes.into()) && bytes.is_multiple_of(block_bytes);
    if !whole || bytes == 0 {
        return Err(Errno::INVAL);
    }
    let first_block = offset >> namespace.block_shift;
    let blocks_less_one = (bytes >> namespace.block_shift) - 1;
    put(0, &[opcode]);
    put(24, &addr.to_ne_bytes());
    put(36, &bytes.to_ne_bytes());
    put(40, &first_block.to_ne_bytes()); // cdw10 and cdw11: little-endian machines only
    put(48, &blocks_less_one.to_ne_bytes()); // cdw12: 0's based
    Ok((data, bytes))
}

const _: () = assert!(cfg!(target_endian = "little"), "the command's words are little-endian");

/// A command's result as that of a transfer: the driver says 0 for all of it, and a status of the
/// device as a positive number.
pub(crate) fn result(command_bytes: u32, result: i32) -> i32 {
    match result {
        0 => i32::try_from(command_bytes).expect("at most TRANSFER_BYTES_MAX"),
        status if status > 0 => -Errno::IO.raw_os_error(),
        errno => errno,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_laid_out_as_the_kernel_reads_it() {
        let namespace = Namespace::new(7, 512, 128 << 10).unwrap();
        let request = Request::Read { offset: 3 << 40, addr: 0x1122_3344_5566_7788, bytes: 4096 };
        let (data, bytes) = command(&namespace, request).unwrap();
        let mut expected = [0; COMMAND_BYTES];
        expected[0] = 2; // read
        expected[4] = 7; // namespace
        expected[24..32].copy_from_slice(&[0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
        expected[37] = 0x10; // 4,096 bytes
        expected[43] = 0x80; // first block: 3 << 31, in 512-byte blocks
        expected[44] = 1;
        expected[48] = 7; // eight blocks
        assert_eq!((data, bytes), (expected, 4096));
        assert_eq!(NVME_URING_CMD_IO, 0xc048_4e80);
    }

    #[test]
    fn what_is_too_long_is_cut_and_what_is_not_whole_blocks_refused() {
        let namespace = Namespace::new(1, 4096, 130 << 10).unwrap();
        let write = |offset, bytes| Request::Write { offset, addr: 0, bytes };
        assert_eq!(command(&namespace, write(0, 1 << 20)).unwrap().1, 128 << 10);
        assert_eq!(command(&namespace, write(512, 4096)).unwrap_err(), Errno::INVAL);
        assert_eq!(command(&namespace, write(0, 512)).unwrap_err(), Errno::INVAL);
        assert_eq!(command(&namespace, Request::Flush).unwrap().1, 0);
        assert_eq!(Namespace::new(1, 8192, 1 << 20), None);
        assert_eq!(Namespace::new(0, 512, 1 << 20), None);
        assert_eq!(Namespace::new(1, 512, 512), None);
    }

    #[test]
    fn a_status_of_the_device_is_an_error() {
        assert_eq!(result(4096, 0), 4096);
        assert_eq!(result(4096, 0x281), -Errno::IO.raw_os_error());
        assert_eq!(result(4096, -11), -11);
    }
}
