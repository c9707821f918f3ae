//! What was freed of many small pieces stays with the allocator until it is told to give whole pages back.

/// Gives free pages of the heap back to the system. Other threads that allocate wait: some milliseconds for each 100 MiB.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: alive, until, alone - it takes no pointer, and touches only what is free, under the allocator's own locks.
        unsafe { libc::malloc_trim(0) };
    }
}
