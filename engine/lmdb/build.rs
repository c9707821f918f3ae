//! Compiles the LMDB sources in `liblmdb/` (see `doc/checksums.md` for what is changed there).

fn main() {
    println!("cargo:rerun-if-changed=liblmdb");
    println!("cargo:rerun-if-changed=build.rs");
    cc::Build::new()
        .file("liblmdb/mdb.c")
        .file("liblmdb/midl.c")
        // 2^17 dirty pages (512 MiB) in a write transaction before it spills to the file.
        .define("MDB_IDL_LOGN", "16")
        .define("MDB_RPAGE_CACHE", "1")
        .flag_if_supported("-Wno-unused-parameter")
        .flag_if_supported("-Wno-bad-function-cast")
        // LMDB reads page headers and nodes through differently typed pointers.
        .flag_if_supported("-fno-strict-aliasing")
        // NDEBUG stays off: its assertions guard the file against LMDB's own bugs, and no
        // damaged page gets past the checksum to trip one.
        .opt_level(2)
        .compile("weft_lmdb_c");
}
