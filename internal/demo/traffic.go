package demo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// payload is the UDP data of every packet: magic, flow, sequence number.
const (
	payload = 24
	magic   = 0x6c336166 // "l3af"
)

// flow is UDP packets from one address to the receiver, numbered from 0.
type flow struct {
	name string
	from netip.Addr
	to   netip.AddrPort
	rate int // packets per second

	conn *net.UDPConn
	sent atomic.Uint64
	// The receiver's.
	mu         sync.Mutex
	seen       []uint64 // a bit for each number that came
	arrived    uint64   // different numbers
	duplicated uint64
}

// open makes the flow's socket. It must run in the sender's namespace.
func (f *flow) open() error {
	c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(f.from, 0)), net.UDPAddrFromAddrPort(f.to))
	if err != nil {
		return fmt.Errorf("socket of %s: %w", f.from, err)
	}
	f.conn = c
	return nil
}

// counts are how many packets were sent, came, and came more than once.
func (f *flow) counts() (sent, arrived, duplicated uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sent.Load(), f.arrived, f.duplicated
}

func (f *flow) came(number uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	word, bit := number/64, uint64(1)<<(number%64)
	for uint64(len(f.seen)) <= word {
		f.seen = append(f.seen, make([]uint64, 1024)...)
	}
	if f.seen[word]&bit != 0 {
		f.duplicated++
		return
	}
	f.seen[word] |= bit
	f.arrived++
}

// send sends the flows at their rates until ctx ends. A sender that was held
// up does not make up for lost time with a burst: bursts overflow the queue
// of the interface, and those losses are nobody's fault but the sender's.
func send(ctx context.Context, flows []*flow) error {
	const tick = time.Millisecond
	const burst = 32
	packets := make([][]byte, len(flows))
	for i := range packets {
		packets[i] = make([]byte, payload)
		binary.BigEndian.PutUint32(packets[i], magic)
		binary.BigEndian.PutUint32(packets[i][4:], uint32(i))
	}
	owed := make([]float64, len(flows))
	t := time.NewTicker(tick)
	defer t.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		now := time.Now()
		passed := now.Sub(last).Seconds()
		last = now
		for i, f := range flows {
			owed[i] = min(owed[i]+passed*float64(f.rate), burst)
			for ; owed[i] >= 1; owed[i]-- {
				binary.BigEndian.PutUint64(packets[i][8:], f.sent.Load())
				_, err := f.conn.Write(packets[i])
				switch {
				case err == nil:
					f.sent.Add(1)
				case errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.EAGAIN):
					// The queue of the interface is full: this number was not
					// sent, the next tick sends it.
					owed[i] = 0
				case errors.Is(err, syscall.ECONNREFUSED):
					// An earlier packet's ICMP error; this one was not sent.
				default:
					return fmt.Errorf("send %s: %w", f.name, err)
				}
			}
		}
	}
}

// receiver takes the packets of the flows and checks their numbers.
type receiver struct {
	conn  *net.UDPConn
	flows []*flow
	done  chan struct{}
}

// listen opens the receiver's socket, with room for seconds of traffic. It
// must run in the receiver's namespace.
func listen(port uint16, flows []*flow) (*receiver, error) {
	c, err := net.ListenUDP("udp", &net.UDPAddr{Port: int(port)})
	if err != nil {
		return nil, err
	}
	raw, err := c.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
		})
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("receive buffer: %w", err)
	}
	r := &receiver{conn: c, flows: flows, done: make(chan struct{})}
	go r.read()
	return r, nil
}

func (r *receiver) read() {
	defer close(r.done)
	buf := make([]byte, 2048)
	for {
		n, _, err := r.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
			continue
		}
		if n != payload || binary.BigEndian.Uint32(buf) != magic {
			continue
		}
		if i := binary.BigEndian.Uint32(buf[4:]); int(i) < len(r.flows) {
			r.flows[i].came(binary.BigEndian.Uint64(buf[8:]))
		}
	}
}

func (r *receiver) close() {
	r.conn.Close()
	<-r.done
}

// overflowed is how many packets the kernel dropped because the socket's
// buffer was full (SK_MEMINFO_DROPS, linux/sock_diag.h).
func (r *receiver) overflowed() (uint64, error) {
	const words, drops = 9, 8
	raw, err := r.conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var info [words]uint32
	size := uint32(unsafe.Sizeof(info))
	var errno syscall.Errno
	if err := raw.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	}); err != nil {
		return 0, err
	}
	if errno != 0 {
		return 0, fmt.Errorf("read drops of the socket: %w", errno)
	}
	return uint64(info[drops]), nil
}
