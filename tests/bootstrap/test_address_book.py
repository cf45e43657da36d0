"""What is remembered of addresses, in what order, and how much."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bootstrap.address_book import AddressBook


def test_recent_success_first_then_the_untried_then_the_failed():
    book = AddressBook()
    book.learn("p", ["a", "b", "c", "d", "e"], now=0)
    book.failed("p", "a")
    book.failed("p", "a")
    book.failed("p", "b")
    book.succeeded("p", "d", now=1)
    book.succeeded("p", "e", now=2)
    assert book.ranked("p") == ["e", "d", "c", "b", "a"]
    book.failed("p", "e")
    assert book.ranked("p") == ["d", "c", "b", "e", "a"]
    book.succeeded("p", "a", now=3)
    assert book.ranked("p")[0] == "a"
    assert book.ranked("nobody") == []


def test_learning_again_forgets_nothing():
    book = AddressBook()
    book.learn("p", ["a", "b"], now=0)
    book.failed("p", "a")
    book.learn("p", ["a"], now=9)
    assert book.ranked("p") == ["b", "a"]


def test_the_peer_unheard_of_longest_makes_room():
    book = AddressBook(peers_max=2)
    book.learn("old", ["a"], now=0)
    book.learn("new", ["a"], now=1)
    book.learn("old", ["a"], now=2)
    book.learn("newest", ["a"], now=3)
    assert book.peers() == ["newest", "old"]
    book.forget("old")
    assert "old" not in book
    assert len(book) == 1


def test_the_worst_address_makes_room():
    book = AddressBook(addresses_max=3)
    book.learn("p", ["a", "b", "c"], now=0)
    book.failed("p", "b")
    book.succeeded("p", "c", now=1)
    book.learn("p", ["d"], now=2)
    assert book.ranked("p") == ["c", "a", "d"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["learn", "succeeded", "failed", "forget"]),
            st.sampled_from("pqrstu"),
            st.sampled_from("abcdefgh"),
        )
    )
)
def test_bounds_hold_whatever_happens(steps):
    book = AddressBook(peers_max=3, addresses_max=4)
    for now, (step, peer, address) in enumerate(steps):
        if step == "learn":
            book.learn(peer, [address], now)
            assert address in book.ranked(peer)
        elif step == "succeeded":
            book.succeeded(peer, address, now)
            assert book.ranked(peer)[0] == address
        elif step == "failed":
            book.failed(peer, address)
        else:
            book.forget(peer)
        assert len(book) <= 3
        assert all(len(set(book.ranked(p))) == len(book.ranked(p)) <= 4 for p in book.peers())
