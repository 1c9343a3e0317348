package main

import (
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"l3af/internal/testenv"
)

// stream is numbered UDP packets from an address in tx to one in rx.
type stream struct {
	t    testing.TB
	out  net.Conn
	in   *net.UDPConn
	sent atomic.Uint64
	wg   sync.WaitGroup

	stop    chan struct{}
	once    sync.Once
	sending sync.WaitGroup

	mu    sync.Mutex
	seen  map[uint64]int
	twice int
}

// newStream opens the sockets. Close ends it.
func newStream(t testing.TB, from, to string) *stream {
	t.Helper()
	s := &stream{t: t, stop: make(chan struct{}), seen: map[uint64]int{}}
	testenv.In(t, "rx", func() {
		var err error
		if s.in, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(to)}); err != nil {
			t.Fatal(err)
		}
	})
	raw, err := s.in.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20) })
	}
	if err != nil {
		t.Fatal(err)
	}
	testenv.In(t, "tx", func() {
		d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}}
		if s.out, err = d.Dial("udp", s.in.LocalAddr().String()); err != nil {
			t.Fatal(err)
		}
	})
	s.wg.Go(s.receive)
	t.Cleanup(s.close)
	return s
}

func (s *stream) close() {
	s.halt()
	s.out.Close()
	s.in.Close()
	s.wg.Wait()
}

func (s *stream) receive() {
	buf := make([]byte, 64)
	for {
		n, err := s.in.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n != 8 {
			continue
		}
		number := binary.BigEndian.Uint64(buf)
		s.mu.Lock()
		s.seen[number]++
		if s.seen[number] > 1 {
			s.twice++
		}
		s.mu.Unlock()
	}
}

// send sends n packets, at most 10,000 a second.
func (s *stream) send(n int) {
	var packet [8]byte
	for i := range n {
		if i%10 == 9 {
			time.Sleep(time.Millisecond)
		}
		binary.BigEndian.PutUint64(packet[:], s.sent.Load())
		if _, err := s.out.Write(packet[:]); err != nil {
			s.t.Errorf("send: %v", err)
			return
		}
		s.sent.Add(1)
	}
}

// flow sends n packets every millisecond until halt or close.
func (s *stream) flow(n int) {
	s.sending.Go(func() {
		t := time.NewTicker(time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-s.stop:
				return
			case <-t.C:
				s.send(n)
			}
		}
	})
}

// halt ends the flow.
func (s *stream) halt() {
	s.once.Do(func() { close(s.stop) })
	s.sending.Wait()
}

// arrived waits until nothing more comes and returns how many different
// packets did.
func (s *stream) arrived() uint64 {
	last, quiet := -1, 0
	for {
		s.mu.Lock()
		n := len(s.seen)
		s.mu.Unlock()
		if uint64(n) == s.sent.Load() {
			return uint64(n)
		}
		if n == last {
			if quiet++; quiet == 15 {
				return uint64(n)
			}
		} else {
			last, quiet = n, 0
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// carries checks that all of n packets arrive, or that none does.
func (s *stream) carries(n int, want bool) {
	s.t.Helper()
	before, sent := s.arrived(), s.sent.Load()
	s.send(n)
	switch got := s.arrived() - before; {
	case want && got != s.sent.Load()-sent:
		s.t.Errorf("%d of %d packets arrived, want all", got, n)
	case !want && got != 0:
		s.t.Errorf("%d of %d packets arrived, want none", got, n)
	}
}

// dropped is how many packets the sending device had no room for.
func dropped(t testing.TB) (n uint64) {
	testenv.In(t, "tx", func() {
		l, err := netlink.LinkByName("v0")
		if err != nil {
			t.Fatal(err)
		}
		n = l.Attrs().Statistics.TxDropped
	})
	return n
}

// watcher looks again and again which XDP program the interface v0 of rx has.
type watcher struct {
	nl    *netlink.Handle
	stop  chan struct{}
	wg    sync.WaitGroup
	looks int
	bare  int // looks that found none
	ids   map[uint32]bool
	err   error
}

func watch(t testing.TB) *watcher {
	t.Helper()
	h, err := netns.GetFromName("rx")
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	nl, err := netlink.NewHandleAt(h, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	w := &watcher{nl: nl, stop: make(chan struct{}), ids: map[uint32]bool{}}
	w.wg.Go(func() {
		for {
			select {
			case <-w.stop:
				return
			case <-time.After(200 * time.Microsecond):
			}
			l, err := nl.LinkByName("v0")
			if err != nil {
				w.err = err
				return
			}
			w.looks++
			if x := l.Attrs().Xdp; x == nil || x.ProgId == 0 {
				w.bare++
			} else {
				w.ids[x.ProgId] = true
			}
		}
	})
	return w
}

// end stops looking; the results may be read then.
func (w *watcher) end() {
	close(w.stop)
	w.wg.Wait()
	w.nl.Close()
}
