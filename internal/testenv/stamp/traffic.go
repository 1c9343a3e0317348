// Package stamp tests changes of chains under load: programs that mark every
// packet, the traffic that looks at the marks, and chains that change at random.
package stamp

import (
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"l3af/internal/testenv"
)

// Port is where the packets go that the programs mark (PORT of stamp.bpf.c).
const Port = 4243

// The payload of a packet: its number and the oldest generation it may meet,
// then what the programs report. It is Size bytes.
const (
	atFloor = 8
	atStamp = 12
	Size    = atStamp + 16
)

// window is how many packets may be on their way. It is less than any queue
// on the way holds, so that only a chain can lose one.
const window = 64

// Generation is what the chain of a generation does with a packet.
type Generation struct {
	Number uint32
	Total  uint32 // how many programs it meets
	Sum    uint32 // of what they add
}

// Traffic is numbered packets through chains of stamp.bpf.c. Each must come
// once, from a chain that was whole and not older than the last one attached
// before the packet was sent.
type Traffic struct {
	t        testing.TB
	out      net.Conn
	in       *net.UDPConn
	stop     chan struct{}
	arrivals chan struct{} // makes the sender look again
	wg       sync.WaitGroup
	floor    atomic.Uint32 // the generation that is attached

	mu       sync.Mutex
	sent     uint64
	received uint64
	outside  map[uint64]bool // on their way
	known    map[uint32]Generation
	met      map[uint32]int // packets of each known generation
	faults   int
}

// New opens the sockets to send from one namespace to an address in another.
// When the test ends at the latest [Traffic.Finish] is called.
func New(t testing.TB, from, to, server string) *Traffic {
	t.Helper()
	f := &Traffic{
		t: t, stop: make(chan struct{}), arrivals: make(chan struct{}, 1),
		outside: map[uint64]bool{}, known: map[uint32]Generation{}, met: map[uint32]int{},
	}
	at := &net.UDPAddr{IP: net.ParseIP(server), Port: Port}
	testenv.In(t, to, func() {
		var err error
		if f.in, err = net.ListenUDP("udp4", at); err != nil {
			t.Fatal(err)
		}
	})
	testenv.In(t, from, func() {
		c, err := net.DialUDP("udp4", nil, at)
		if err != nil {
			t.Fatal(err)
		}
		f.out = c
		raw, err := c.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		// Programs write into the packet: no checksum that would tell.
		_ = raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NO_CHECK, 1) })
		if err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { f.Finish() })
	return f
}

// Start lets packets flow.
func (f *Traffic) Start() {
	f.wg.Go(f.send)
	f.wg.Go(f.receive)
}

func (f *Traffic) send() {
	packet := make([]byte, Size)
	for {
		select {
		case <-f.stop:
			return
		default:
		}
		f.mu.Lock()
		full, number := len(f.outside) >= window, f.sent
		if !full {
			f.outside[number] = true
			f.sent++
		}
		f.mu.Unlock()
		if full {
			select {
			case <-f.stop:
				return
			case <-f.arrivals:
			}
			continue
		}
		binary.BigEndian.PutUint64(packet, number)
		binary.NativeEndian.PutUint32(packet[atFloor:], f.floor.Load())
		if _, err := f.out.Write(packet); err != nil {
			f.fault("packet %d: send: %v", number, err)
		}
		if number%8 == 7 { // leave the CPUs to the changes, too
			time.Sleep(200 * time.Microsecond)
		}
	}
}

func (f *Traffic) receive() {
	b := make([]byte, Size+1)
	for {
		n, err := f.in.Read(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n != Size {
			f.fault("receive: %d bytes, %v", n, err)
			continue
		}
		f.look(b[:n])
		select {
		case f.arrivals <- struct{}{}:
		default:
		}
	}
}

// Read reads struct stamp in a payload: what the programs did, and what they
// found odd.
func Read(b []byte) (by Generation, odd uint32) {
	field := func(i int) uint32 { return binary.NativeEndian.Uint32(b[atStamp+4*i:]) }
	return Generation{field(0), field(1), field(3)}, field(2)
}

// look checks one packet.
func (f *Traffic) look(b []byte) {
	number, floor := binary.BigEndian.Uint64(b), binary.NativeEndian.Uint32(b[atFloor:])
	by, odd := Read(b)
	f.mu.Lock()
	twice := !f.outside[number]
	delete(f.outside, number)
	f.received++
	want := f.known[by.Number]
	f.met[by.Number]++
	f.mu.Unlock()
	switch {
	case twice:
		f.fault("packet %d comes a second time", number)
	case by.Number == 0:
		f.fault("packet %d did not reach the last program", number)
	case odd != 0:
		f.fault("packet %d met programs of different chains (%d): %+v", number, odd, by)
	case by.Number < floor:
		f.fault("packet %d met generation %d, sent when %d was attached", number, by.Number, floor)
	case by != want:
		f.fault("packet %d met %+v, want %+v", number, by, want)
	}
}

// fault reports the first few of what must not be.
func (f *Traffic) fault(format string, args ...any) {
	f.mu.Lock()
	f.faults++
	n := f.faults
	f.mu.Unlock()
	if n <= 10 {
		f.t.Errorf(format, args...)
	}
}

// Next tells of a generation that packets may meet from now on.
func (f *Traffic) Next(g Generation) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known[g.Number] = g
	// Packets that are on their way met none older than this.
	delete(f.known, g.Number-window)
	delete(f.met, g.Number-window)
}

// Attached tells that a generation is attached, and waits for packets that
// met it.
func (f *Traffic) Attached(g Generation) {
	f.t.Helper()
	f.floor.Store(g.Number)
	f.await("packets of a chain that was attached", func() bool { return f.met[g.Number] >= 4 })
}

// await waits until ok, and gives up when no packet comes any more.
func (f *Traffic) await(what string, ok func() bool) {
	f.t.Helper()
	last, quiet := uint64(0), time.Now()
	for {
		f.mu.Lock()
		done, received, left := ok(), f.received, len(f.outside)
		f.mu.Unlock()
		if done {
			return
		}
		if received != last {
			last, quiet = received, time.Now()
		} else if time.Since(quiet) > 10*time.Second {
			f.t.Fatalf("waited for %s: %d of %d packets are lost", what, left, f.sent)
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// Finish ends the flow once every packet came, and gives how many there were.
func (f *Traffic) Finish() uint64 {
	select {
	case <-f.stop:
		return f.sent
	default:
	}
	close(f.stop)
	f.out.SetWriteDeadline(time.Now())
	if !f.t.Failed() {
		// The sender may be about to send its last.
		f.await("the last packets", func() bool { return len(f.outside) == 0 })
	}
	f.in.Close()
	f.out.Close()
	f.wg.Wait()
	return f.sent
}
