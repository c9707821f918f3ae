use super::*;

fn after(end: End, what: &[Fence]) -> End {
    what.iter().fold(end, |end, what| end.after(*what))
}

#[test]
fn what_a_client_is_told_grows_with_everything_it_must_hear_of() {
    use Fence::{Back, Late, Off};
    let number = |what: &[Fence]| after(End::default(), what).number();
    assert_eq!((number(&[]), number(&[Off]), number(&[Off, Off])), (0, 1, 2));
    assert_eq!((number(&[Late]), number(&[Late, Back]), number(&[Back])), (1, 0, 0));
    // A server that was started when it was late has told it 1: another lateness or fence is another number.
    assert_eq!((number(&[Late, Late]), number(&[Late, Off])), (2, 2));
    assert_eq!(number(&[Late, Late, Back]), 1);
}

#[test]
fn when_the_bits_are_used_up_a_fence_counts_as_an_end() {
    let most = End { fences: LATE - 1, count: 3, ..End::default() };
    let next = after(most, &[Fence::Off]);
    assert_eq!((next.count, next.fences, next.late), (4, 0, false));
    assert!(next.number() > most.number());
    let late = after(most, &[Fence::Late]);
    assert_eq!(late.number(), next.number(), "as a server tells it that is started now");
    let last = End { count: u32::MAX, ..most };
    assert_eq!(End::decode(&last.encode()), Some(last));
    assert_eq!(after(last, &[Fence::Off]).number(), u32::MAX, "no more than that can be told");
}
