// Package pcap reads capture files, pcap and pcapng, and writes pcap.
package pcap

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// Ethernet is the only link type that is read: LINKTYPE_ETHERNET.
const Ethernet = 1

// maxPacket bounds one packet, MAXIMUM_SNAPLEN of tcpdump.
const maxPacket = 256 << 10

// Packet is one captured frame.
type Packet struct {
	Time time.Time // zero where the file has none
	Data []byte
	// Length is how long the frame was on the wire; more than len(Data) when
	// the capture was cut.
	Length int
}

// The magic numbers of pcap, in the byte order of the file, and the type of
// pcapng's section header block, which reads the same in both.
const (
	magicMicro    = 0xa1b2c3d4
	magicNano     = 0xa1b23c4d
	sectionHeader = 0x0a0d0d0a
)

// Reader reads the packets of a capture file. Those of other link types than
// Ethernet are refused.
type Reader struct {
	next  func() (Packet, error)
	count int
	ng    bool
}

// Next gives the next packet, io.EOF behind the last. Other errors tell the
// number of the packet, from 1.
func (r *Reader) Next() (Packet, error) {
	p, err := r.next()
	switch {
	case err == nil:
		r.count++
	case errors.Is(err, io.EOF):
	case r.ng:
		err = fmt.Errorf("after packet %d: %w", r.count, err)
	default:
		err = fmt.Errorf("packet %d: %w", r.count+1, err)
	}
	return p, err
}

// NewReader reads a file's head.
func NewReader(r io.Reader) (*Reader, error) {
	in := bufio.NewReader(r)
	magic, err := in.Peek(4)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("the file is too short for a capture")
		}
		return nil, err
	}
	if binary.BigEndian.Uint32(magic) == sectionHeader {
		s := &section{in: in}
		return &Reader{next: s.next, ng: true}, nil
	}
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		switch order.Uint32(magic) {
		case magicMicro:
			return newClassic(in, order, time.Microsecond)
		case magicNano:
			return newClassic(in, order, time.Nanosecond)
		}
	}
	return nil, errors.New("neither a pcap nor a pcapng file")
}

func newClassic(in *bufio.Reader, order binary.ByteOrder, unit time.Duration) (*Reader, error) {
	var head [24]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return nil, fmt.Errorf("file header: %w", cut(err))
	}
	// The upper bits say whether frames end with their check sequence.
	if link := order.Uint32(head[20:]) & 0xffff; link != Ethernet {
		return nil, fmt.Errorf("link type %d is not Ethernet (%d)", link, Ethernet)
	}
	return &Reader{next: func() (Packet, error) {
		var h [16]byte
		if _, err := io.ReadFull(in, h[:]); errors.Is(err, io.EOF) {
			return Packet{}, io.EOF
		} else if err != nil {
			return Packet{}, cut(err)
		}
		data, err := take(in, order.Uint32(h[8:]))
		if err != nil {
			return Packet{}, err
		}
		return Packet{
			Time:   time.Unix(int64(order.Uint32(h[0:])), int64(order.Uint32(h[4:]))*int64(unit)).UTC(),
			Data:   data,
			Length: max(len(data), int(min(order.Uint32(h[12:]), maxPacket))),
		}, nil
	}}, nil
}

// take reads n bytes. Memory is taken for what is there, not for what is
// promised.
func take(in io.Reader, n uint32) ([]byte, error) {
	if n > maxPacket {
		return nil, fmt.Errorf("%d bytes; no more than %d are read", n, maxPacket)
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(in, data); err != nil {
		return nil, cut(err)
	}
	return data, nil
}

func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the file is cut off")
	}
	return err
}

// Writer writes packets as a pcap file with times in nanoseconds.
type Writer struct {
	out   *bufio.Writer
	count int
}

// NewWriter writes the file's head.
func NewWriter(w io.Writer) (*Writer, error) {
	out := bufio.NewWriter(w)
	order := binary.LittleEndian
	head := make([]byte, 0, 24)
	head = order.AppendUint32(head, magicNano)
	head = order.AppendUint16(head, 2)
	head = order.AppendUint16(head, 4)
	head = append(head, make([]byte, 8)...)
	head = order.AppendUint32(head, maxPacket)
	head = order.AppendUint32(head, Ethernet)
	_, err := out.Write(head)
	return &Writer{out: out}, err
}

// Write adds a packet.
func (w *Writer) Write(p Packet) error {
	if w.count++; len(p.Data) > maxPacket {
		return fmt.Errorf("packet %d: %d bytes; no more than %d are written", w.count, len(p.Data), maxPacket)
	}
	var seconds, nanos uint32
	if s := p.Time.Unix(); !p.Time.IsZero() && s >= 0 && s <= 1<<32-1 {
		seconds, nanos = uint32(s), uint32(p.Time.Nanosecond())
	}
	order := binary.LittleEndian
	h := make([]byte, 0, 16)
	h = order.AppendUint32(h, seconds)
	h = order.AppendUint32(h, nanos)
	h = order.AppendUint32(h, uint32(len(p.Data)))
	h = order.AppendUint32(h, uint32(max(len(p.Data), p.Length)))
	_, err := w.out.Write(append(h, p.Data...))
	return err
}

// Flush writes what is not written yet.
func (w *Writer) Flush() error { return w.out.Flush() }
