//! The part of LMDB's C interface this crate uses, as declared in `liblmdb/lmdb.h`.

use libc::{c_char, c_int, c_uint, c_void, mode_t, size_t};

#[repr(C)]
pub(crate) struct MdbEnv {
    _opaque: [u8; 0],
}

#[repr(C)]
pub(crate) struct MdbTxn {
    _opaque: [u8; 0],
}

#[repr(C)]
pub(crate) struct MdbCursor {
    _opaque: [u8; 0],
}

/// `MDB_val`: a length and where it starts.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct MdbVal {
    pub(crate) size: size_t,
    pub(crate) data: *mut c_void,
}

impl MdbVal {
    pub(crate) const EMPTY: MdbVal = MdbVal { size: 0, data: std::ptr::null_mut() };

    /// For passing in only: LMDB does not write through keys and values it is given.
    pub(crate) fn lend(bytes: &[u8]) -> MdbVal {
        MdbVal { size: bytes.len(), data: bytes.as_ptr().cast_mut().cast() }
    }
}

#[repr(C)]
pub(crate) struct MdbStat {
    pub(crate) page_bytes: c_uint,
    pub(crate) depth: c_uint,
    pub(crate) branch_pages: size_t,
    pub(crate) leaf_pages: size_t,
    pub(crate) overflow_pages: size_t,
    pub(crate) entries: size_t,
}

#[repr(C)]
pub(crate) struct MdbEnvInfo {
    pub(crate) fixed_address: *mut c_void,
    pub(crate) map_bytes: size_t,
    pub(crate) last_page: size_t,
    pub(crate) last_txn: size_t,
    pub(crate) readers_max: c_uint,
    pub(crate) readers_count: c_uint,
}

/// `MDB_changed`: a page or run of pages of a commit.
#[repr(C)]
pub(crate) struct MdbChanged {
    pub(crate) data: *const u8,
    pub(crate) number: size_t,
    pub(crate) run: size_t,
}

/// `MDB_commit`, up to its pages, which follow it.
#[repr(C)]
pub(crate) struct MdbCommit {
    pub(crate) file_bytes: size_t,
    pub(crate) meta_at: size_t,
    pub(crate) meta_bytes: size_t,
    pub(crate) meta: [u64; 32],
    pub(crate) meta_old: [u64; 32],
    pub(crate) count: size_t,
    pub(crate) pages: [MdbChanged; 0],
}

pub(crate) type MdbSumFunc =
    unsafe extern "C" fn(source: *const MdbVal, sum: *mut MdbVal, key: *const MdbVal);

pub(crate) const MDB_NOTLS: c_uint = 0x20_0000;
pub(crate) const MDB_NORDAHEAD: c_uint = 0x80_0000;
pub(crate) const MDB_RDONLY: c_uint = 0x2_0000;
pub(crate) const MDB_CREATE: c_uint = 0x4_0000;

pub(crate) const MDB_FIRST: c_uint = 0;
pub(crate) const MDB_LAST: c_uint = 6;
pub(crate) const MDB_NEXT: c_uint = 8;
pub(crate) const MDB_PREV: c_uint = 12;
pub(crate) const MDB_SET_RANGE: c_uint = 17;

pub(crate) const MDB_NOTFOUND: c_int = -30798;
pub(crate) const MDB_PAGE_NOTFOUND: c_int = -30797;
pub(crate) const MDB_CORRUPTED: c_int = -30796;
pub(crate) const MDB_PANIC: c_int = -30795;
pub(crate) const MDB_VERSION_MISMATCH: c_int = -30794;
pub(crate) const MDB_INVALID: c_int = -30793;
pub(crate) const MDB_MAP_FULL: c_int = -30792;
pub(crate) const MDB_DBS_FULL: c_int = -30791;
pub(crate) const MDB_READERS_FULL: c_int = -30790;
pub(crate) const MDB_TXN_FULL: c_int = -30788;
pub(crate) const MDB_CURSOR_FULL: c_int = -30787;
pub(crate) const MDB_PAGE_FULL: c_int = -30786;
pub(crate) const MDB_INCOMPATIBLE: c_int = -30784;
pub(crate) const MDB_BAD_TXN: c_int = -30782;
pub(crate) const MDB_BAD_VALSIZE: c_int = -30781;
pub(crate) const MDB_PROBLEM: c_int = -30779;
pub(crate) const MDB_BAD_CHECKSUM: c_int = -30778;

unsafe extern "C" {
    pub(crate) fn mdb_env_create(env: *mut *mut MdbEnv) -> c_int;
    pub(crate) fn mdb_env_open(
        env: *mut MdbEnv,
        path: *const c_char,
        flags: c_uint,
        mode: mode_t,
    ) -> c_int;
    pub(crate) fn mdb_env_close(env: *mut MdbEnv);
    pub(crate) fn mdb_env_sync(env: *mut MdbEnv, force: c_int) -> c_int;
    pub(crate) fn mdb_env_info(env: *mut MdbEnv, info: *mut MdbEnvInfo) -> c_int;
    pub(crate) fn mdb_env_set_mapsize(env: *mut MdbEnv, bytes: size_t) -> c_int;
    pub(crate) fn mdb_env_set_pagesize(env: *mut MdbEnv, bytes: c_int) -> c_int;
    pub(crate) fn mdb_env_set_maxreaders(env: *mut MdbEnv, readers: c_uint) -> c_int;
    pub(crate) fn mdb_env_set_maxdbs(env: *mut MdbEnv, tables: c_uint) -> c_int;
    pub(crate) fn mdb_env_set_dirty_max(env: *mut MdbEnv, pages: c_uint);
    pub(crate) fn mdb_env_set_checksum(env: *mut MdbEnv, sum: MdbSumFunc, bytes: c_uint) -> c_int;
    pub(crate) fn mdb_env_get_map(env: *mut MdbEnv, at: *mut *mut c_void, bytes: *mut size_t);
    pub(crate) fn mdb_txn_size(
        txn: *mut MdbTxn,
        dirty: *mut size_t,
        freed: *mut size_t,
        pages: *mut size_t,
    );
    pub(crate) fn mdb_txn_begin(
        env: *mut MdbEnv,
        parent: *mut MdbTxn,
        flags: c_uint,
        txn: *mut *mut MdbTxn,
    ) -> c_int;
    pub(crate) fn mdb_txn_commit(txn: *mut MdbTxn) -> c_int;
    pub(crate) fn mdb_txn_commit_apart(txn: *mut MdbTxn, apart: *mut *mut MdbCommit) -> c_int;
    pub(crate) fn mdb_env_apart_done(env: *mut MdbEnv);
    pub(crate) fn mdb_env_apart_failed(env: *mut MdbEnv);
    pub(crate) fn mdb_commit_free(apart: *mut MdbCommit);
    pub(crate) fn mdb_txn_abort(txn: *mut MdbTxn);
    pub(crate) fn mdb_dbi_open(
        txn: *mut MdbTxn,
        name: *const c_char,
        flags: c_uint,
        dbi: *mut c_uint,
    ) -> c_int;
    pub(crate) fn mdb_stat(txn: *mut MdbTxn, dbi: c_uint, stat: *mut MdbStat) -> c_int;
    pub(crate) fn mdb_get(
        txn: *mut MdbTxn,
        dbi: c_uint,
        key: *mut MdbVal,
        value: *mut MdbVal,
    ) -> c_int;
    pub(crate) fn mdb_put(
        txn: *mut MdbTxn,
        dbi: c_uint,
        key: *mut MdbVal,
        value: *mut MdbVal,
        flags: c_uint,
    ) -> c_int;
    pub(crate) fn mdb_del(
        txn: *mut MdbTxn,
        dbi: c_uint,
        key: *mut MdbVal,
        value: *mut MdbVal,
    ) -> c_int;
    pub(crate) fn mdb_cursor_open(
        txn: *mut MdbTxn,
        dbi: c_uint,
        cursor: *mut *mut MdbCursor,
    ) -> c_int;
    pub(crate) fn mdb_cursor_close(cursor: *mut MdbCursor);
    pub(crate) fn mdb_cursor_get(
        cursor: *mut MdbCursor,
        key: *mut MdbVal,
        value: *mut MdbVal,
        op: c_uint,
    ) -> c_int;
}
