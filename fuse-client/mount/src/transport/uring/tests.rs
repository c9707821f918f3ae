use super::*;

fn config(queue_count: u16, depth: u32, max_write_bytes: u32) -> UringConfig {
    UringConfig { first_token: 1, queue_count, depth, max_write_bytes }
}

#[test]
fn every_queue_has_an_entry_and_all_together_stay_within_bounds() {
    assert_eq!(config(2, 16, 1 << 20).fitted().depth, 16);
    assert_eq!(config(2, 1000, 4096).fitted().depth, DEPTH_MAX);
    assert_eq!(config(2, 0, 4096).fitted().depth, 1);
    for queues in [1, 2, 64, 256, 1024, 8192] {
        for max_write_bytes in [4096, 1 << 20, 16 << 20] {
            let fitted = config(queues, 64, max_write_bytes).fitted();
            assert!(fitted.depth >= 1);
            let bytes = to_usize(u64::from(fitted.entry_count())) * fitted.slot_bytes();
            assert!(fitted.depth == 1 || bytes <= PAYLOAD_BYTES_MAX, "{fitted:?}");
            assert!(fitted.depth == 1 || fitted.entry_count() <= ENTRIES_MAX, "{fitted:?}");
        }
    }
}

#[test]
fn a_payload_is_never_shorter_than_the_kernel_wants() {
    assert_eq!(config(1, 1, 4096).payload_bytes(), 128 << 10);
    assert_eq!(config(1, 1, 1 << 20).payload_bytes(), 1 << 20);
    let odd = config(1, 1, (1 << 20) + 4096);
    assert_eq!((odd.payload_bytes(), odd.slot_bytes()), ((1 << 20) + 4096, 2 << 20));
}
