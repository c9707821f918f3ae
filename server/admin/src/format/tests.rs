use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use weft_wire::{ClusterId, TargetId};

use super::*;

/// A config in a fresh folder, with one target that is not there yet.
fn fresh() -> (tempfile::TempDir, Config) {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    let config = Config::new(ClusterId([7; 16]), "n", at("state"), vec![at("deep/target0")]);
    (dir, config)
}

const FILE_BYTES: u64 = 16 << 20;

fn order(config: &Config) -> TargetOrder<'_> {
    TargetOrder { config, path: &config.targets[0], id: TargetId(3), file_bytes: FILE_BYTES }
}

#[test]
fn a_file_becomes_a_target_with_all_its_blocks() {
    let (_dir, config) = fresh();
    let _lock = take_state_dir(&config).expect("free");
    assert!(matches!(survey_target(&config.targets[0]), Ok(Content::Missing)));
    let made = format_target(&order(&config)).expect("formatted");
    let (found, copies) = inspect_file(&config.targets[0]).expect("a target");
    assert_eq!((found, copies), (made, weft_store::Copies::Both));
    assert_eq!((found.cluster, found.target_id), (config.cluster, TargetId(3)));
    let metadata = std::fs::metadata(&config.targets[0]).expect("there");
    assert_eq!(metadata.len(), FILE_BYTES);
    assert!(metadata.blocks() * 512 >= FILE_BYTES, "every block is allocated");
    assert!(config.index_dir(made.target_uuid.0).join("data.mdb").exists());
}

#[test]
fn a_target_made_anew_leaves_no_index_behind() {
    let (_dir, config) = fresh();
    let _lock = take_state_dir(&config).expect("free");
    let first = format_target(&order(&config)).expect("formatted");
    let second = format_target(&order(&config)).expect("formatted again");
    assert!(!config.index_dir(first.target_uuid.0).exists());
    assert!(config.index_dir(second.target_uuid.0).exists());
}

#[test]
fn what_was_formatted_opens_as_a_store() {
    let (_dir, config) = fresh();
    let _lock = take_state_dir(&config).expect("free");
    let made = format_target(&order(&config)).expect("formatted");
    let index_dir = config.index_dir(made.target_uuid.0);
    let params = weft_store::OpenParams::new(index_dir, config.cluster);
    let mut device =
        target::OpenFile::new(File::open(&config.targets[0]).expect("open")).expect("open");
    if let Err(error) = weft_store::Store::open(params, &mut device) {
        panic!("{}", chain(&error));
    }
}

#[test]
fn a_file_that_is_there_keeps_its_length() {
    let (dir, mut config) = fresh();
    config.targets = vec![dir.path().join("sparse")];
    File::create(&config.targets[0]).expect("made").set_len(24 << 20).expect("long");
    let _lock = take_state_dir(&config).expect("free");
    assert!(
        matches!(survey_target(&config.targets[0]), Ok(Content::Blank { bytes }) if bytes == 24 << 20)
    );
    let made = format_target(&order(&config)).expect("formatted");
    assert_eq!(made.areas.capacity_bytes, 24 << 20);
    let metadata = std::fs::metadata(&config.targets[0]).expect("there");
    assert!(metadata.blocks() * 512 >= 24 << 20, "its holes are filled");
}

#[test]
fn too_small_a_target_is_refused() {
    let (_dir, config) = fresh();
    let _lock = take_state_dir(&config).expect("free");
    for file_bytes in [0, 4096, 1 << 20] {
        let small = TargetOrder { file_bytes, ..order(&config) };
        let error = format_target(&small).expect_err("too small").to_string();
        assert!(error.contains("--target-bytes"), "{error}");
        std::fs::remove_file(&config.targets[0]).expect("was made");
    }
}

#[test]
fn what_is_there_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("device");
    let mut bytes = vec![0u8; 4 << 20];
    let told = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("written");
        survey_target(&path).expect("readable").describe()
    };
    assert!(told(&bytes).starts_with("nothing"));
    assert!(told(&[]).starts_with("nothing"));
    bytes[1 << 19] = 1;
    assert!(told(&bytes).contains("unknown kind"));
    bytes[..4].copy_from_slice(b"XFSB");
    assert_eq!(told(&bytes), "an XFS file system");
    assert!(told(b"some text").contains("unknown kind"));
    assert!(survey_target(dir.path()).is_err(), "a folder is no target");
    assert!(survey_target(&path.join("under-a-file")).is_err());
}

#[test]
fn one_damaged_superblock_is_survived_and_two_are_told() {
    let (_dir, config) = fresh();
    let _lock = take_state_dir(&config).expect("free");
    format_target(&order(&config)).expect("formatted");
    let file = File::options().write(true).open(&config.targets[0]).expect("open");
    file.write_all_at(&[0xff; 64], 100).expect("damaged");
    let (_, copies) = inspect_file(&config.targets[0]).expect("a target");
    assert_eq!(copies, weft_store::Copies::OnlySecond);
    file.write_all_at(b"\x53\xef", 0x438).expect("an ext4 in its place");
    let told = survey_target(&config.targets[0]).expect("readable").describe();
    assert_eq!(told, "an ext2/3/4 file system, made over target 3");
    file.write_all_at(&[0; 2], 0x438).expect("gone");
    file.write_all_at(&[0xff; 64], FILE_BYTES - 4096 + 100).expect("damaged");
    let content = survey_target(&config.targets[0]).expect("readable");
    assert!(!content.is_free());
    assert!(content.describe().contains("Weft target that cannot be used"), "{content:?}");
}

#[test]
fn a_target_in_use_is_not_formatted() {
    let (_dir, config) = fresh();
    let lock = take_state_dir(&config).expect("free");
    format_target(&order(&config)).expect("formatted");
    let used = File::open(&config.targets[0]).expect("open");
    flock(&used, FlockOperation::NonBlockingLockShared).expect("locked");
    let error = format_target(&order(&config)).expect_err("in use").to_string();
    assert!(error.contains("a server is using it"), "{error}");
    assert!(take_state_dir(&config).is_err(), "so is the state folder");
    drop(lock);
    assert!(take_state_dir(&config).is_ok());
}

#[test]
fn the_rings_of_a_killed_server_are_waited_for() {
    let (_dir, config) = fresh();
    drop(take_state_dir(&config).expect("free"));
    format_target(&order(&config)).expect("formatted");
    // What a server leaves behind that was killed: its number, and locks that its rings hold a moment longer.
    let state = File::options().write(true).open(config.lock_file()).expect("there");
    state.set_len(0).and_then(|()| state.write_all_at(b"4294967295", 0)).expect("written");
    let target = File::open(&config.targets[0]).expect("open");
    for file in [&state, &target] {
        flock(file, FlockOperation::NonBlockingLockExclusive).expect("locked");
    }
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::park_timeout(Duration::from_millis(100));
            drop(state);
            std::thread::park_timeout(Duration::from_millis(100));
            drop(target);
        });
        let _lock = take_state_dir(&config).expect("waited");
        take_device(&config.targets[0]).expect("waited");
    });
}

#[test]
fn a_volume_is_made_whole_and_told() {
    let (_dir, config) = fresh();
    assert_eq!(survey_volume(&config).expect("readable"), VolumeContent::Missing);
    let _lock = take_state_dir(&config).expect("free");
    assert_eq!(survey_volume(&config).expect("readable"), VolumeContent::Missing);
    format_volume(&config).expect("formatted");
    assert_eq!(survey_volume(&config).expect("readable"), VolumeContent::Volume(config.cluster));
    let log = std::fs::metadata(config.volume_log()).expect("a log");
    assert_eq!(log.len(), weft_metadata::Volume::log_plan(&config.volume_dir()).expect("a volume"));
    assert!(log.blocks() * 512 >= log.len(), "its zeros are on the disk");
    let (volume, _) = open_volume(&config, vec![TargetId(0)]).expect("opens");
    assert!(weft_metadata::check(&volume).is_sound());
}

#[test]
fn a_volume_is_made_anew_and_an_unfinished_one_is_told() {
    let (_dir, config) = fresh();
    let _lock = take_state_dir(&config).expect("free");
    format_volume(&config).expect("formatted");
    format_volume(&config).expect("formatted again");
    std::fs::remove_file(config.volume_log()).expect("was there");
    let told = survey_volume(&config).expect("readable");
    assert!(told.describe().contains("without its log"), "{told:?}");
    std::fs::remove_file(config.state_dir.join("cluster")).expect("was there");
    let told = survey_volume(&config).expect("readable");
    assert!(told.describe().contains("not finished"), "{told:?}");
    std::fs::write(config.volume_dir().join("diary.txt"), "mine").expect("written");
    let error = format_volume(&config).expect_err("somebody's file").to_string();
    assert!(error.contains("diary.txt"), "{error}");
    assert!(config.volume_dir().join("index").exists(), "nothing was removed");
}
