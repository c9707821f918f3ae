use weft_iobuf::Pool;

use super::*;

const NOW: Duration = Duration::from_secs(1);

fn disk(seed: u64) -> Disk {
    Disk::new(1 << 20, Random::new(seed))
}

fn write(at: u64, value: u8, through: Through) -> Work {
    Work::Write { offset: at * BLOCK, bytes: vec![value; 2 * BLOCK_LEN], through }
}

fn settle(disk: &mut Disk) -> Vec<Done> {
    std::iter::from_fn(|| disk.complete()).collect()
}

fn bytes(disk: &mut Disk, block: u64) -> Vec<u8> {
    let mut buf = vec![0; 2 * BLOCK_LEN];
    disk.read_at(block * BLOCK, &mut buf).unwrap();
    buf
}

#[test]
fn completions_come_in_any_order_and_in_virtual_time() {
    let mut disk = disk(1);
    for tag in 0..20 {
        disk.submit(NOW, tag, write(tag * 2, 1, Through::Direct));
    }
    let done = settle(&mut disk);
    let tags: Vec<u64> = done.iter().map(|done| done.tag).collect();
    assert!(!tags.is_sorted() && tags.len() == 20);
    assert!(done.is_sorted_by_key(|done| done.at) && done[0].at > NOW);
}

#[test]
fn a_power_loss_takes_unflushed_sectors_only() {
    let (mut whole, mut none, mut torn) = (0, 0, 0);
    for seed in 0..200 {
        let mut disk = disk(seed);
        disk.submit(NOW, 0, write(0, 1, Through::Direct));
        settle(&mut disk);
        disk.submit(NOW, 1, Work::Flush);
        settle(&mut disk);
        disk.submit(NOW, 2, write(10, 2, Through::Durably));
        settle(&mut disk);
        disk.submit(NOW, 3, write(20, 3, Through::Direct));
        settle(&mut disk);
        assert_eq!(bytes(&mut disk, 20), [3; 2 * BLOCK_LEN]);
        disk.power_loss();
        assert_eq!(bytes(&mut disk, 0), [1; 2 * BLOCK_LEN]);
        assert_eq!(bytes(&mut disk, 10), [2; 2 * BLOCK_LEN]);
        let left = bytes(&mut disk, 20);
        for sector in left.chunks(SECTOR) {
            assert!(sector == [3; SECTOR] || sector == [FILL; SECTOR]);
        }
        match left.iter().filter(|byte| **byte == 3).count() {
            0 => none += 1,
            count if count == 2 * BLOCK_LEN => whole += 1,
            _ => torn += 1,
        }
    }
    assert!(whole > 20 && none > 20 && torn > 20, "{whole} {none} {torn}");
}

#[test]
fn a_flush_covers_what_was_complete_when_it_began() {
    let mut lost = 0;
    for seed in 0..100 {
        let mut disk = disk(seed);
        disk.submit(NOW, 0, Work::Flush);
        disk.submit(NOW, 1, write(0, 1, Through::Direct));
        settle(&mut disk);
        disk.power_loss();
        lost += u32::from(bytes(&mut disk, 0) != [1; 2 * BLOCK_LEN]);
    }
    assert!(lost > 30);
}

#[test]
fn a_dead_process_leaves_whole_direct_writes_and_first_pages_of_others() {
    let mut cut = 0;
    for seed in 0..100 {
        let mut disk = disk(seed);
        disk.submit(NOW, 0, write(0, 1, Through::Direct));
        disk.submit(NOW, 1, write(10, 1, Through::PageCache));
        disk.kill();
        let direct = bytes(&mut disk, 0);
        assert!(direct == [1; 2 * BLOCK_LEN] || direct == [FILL; 2 * BLOCK_LEN]);
        let cached = bytes(&mut disk, 10);
        cut += u32::from(cached[0] == 1 && cached[BLOCK_LEN] == FILL);
        assert!(disk.complete().is_none());
    }
    assert!(cut > 5);
}

#[test]
fn every_fault_happens_and_is_counted() {
    let pool = Pool::new(1 << 20, 1 << 16).unwrap();
    let all = |change: &dyn Fn(&mut Faults)| {
        let mut disk = disk(3);
        disk.write_now(0, &[9; 2 * BLOCK_LEN]);
        disk.flush_now();
        disk.faults.area = 0..1 << 20;
        change(&mut disk.faults);
        disk
    };
    let read = |disk: &mut Disk| {
        let buf = pool.alloc(2 * BLOCK_LEN).unwrap();
        disk.submit(NOW, 0, Work::Read { offset: 0, buf, bytes: 2 * BLOCK_LEN });
        disk.complete().unwrap().result.is_ok()
    };
    let put = |disk: &mut Disk| {
        disk.submit(NOW, 0, write(0, 1, Through::Direct));
        disk.complete().unwrap().result.is_ok()
    };
    let mut disk = all(&|faults| faults.dropped = 10_000);
    assert!(put(&mut disk) && bytes(&mut disk, 0)[0] == 9 && disk.counts.lies == 1);
    let mut disk = all(&|faults| faults.misdirected = 10_000);
    assert!(put(&mut disk) && bytes(&mut disk, 0)[0] == 9 && disk.find(0, &[1; 8192]).is_some());
    let mut disk = all(&|faults| faults.rot = 10_000);
    assert!(read(&mut disk) && disk.counts.lies == 1);
    let mut disk = all(&|faults| faults.write_errors = 10_000);
    assert!(!put(&mut disk) && disk.counts.errors == 1);
    let mut disk = all(&|faults| faults.read_errors_for_good = 10_000);
    assert!(!read(&mut disk));
    disk.faults.read_errors_for_good = 0;
    assert!(!read(&mut disk) && put(&mut disk) && read(&mut disk), "writing heals");
    let mut disk = all(&|faults| faults.flush_errors = 10_000);
    assert!(put(&mut disk));
    disk.submit(NOW, 0, Work::Flush);
    assert!(disk.complete().unwrap().result.is_err());
}

#[test]
fn the_power_fails_at_the_call_that_was_chosen() {
    let mut disk = disk(1);
    disk.power_fails_after(1);
    let mut buf = [0; 512];
    disk.read_at(0, &mut buf).unwrap();
    disk.flush().unwrap_err();
    disk.read_at(0, &mut buf).unwrap_err();
    disk.power_loss();
    disk.read_at(0, &mut buf).unwrap();
}
