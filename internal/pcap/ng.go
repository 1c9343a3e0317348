package pcap

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"time"
)

// The blocks of pcapng that hold something for us
// (draft-ietf-opsawg-pcapng). The others are passed over.
const (
	blockInterface = 1
	blockOldPacket = 2 // obsolete, as old Wiresharks wrote it
	blockSimple    = 3
	blockPacket    = 6
)

const (
	byteOrder = 0x1a2b3c4d
	// maxBlock bounds a block: a packet with its options.
	maxBlock      = maxPacket + 64<<10
	maxInterfaces = 1 << 16
)

// device is an interface that a section of the file describes.
type device struct {
	link   uint16
	snap   uint32
	unit   float64 // seconds
	offset int64   // seconds
}

// section is the part of a pcapng file that is being read.
type section struct {
	in      *bufio.Reader
	order   binary.ByteOrder
	devices []device
	packet  *Packet // of the last block; nil: it held none
}

func (s *section) next() (Packet, error) {
	for {
		s.packet = nil
		if err := s.block(); err != nil {
			return Packet{}, err
		}
		if s.packet != nil {
			return *s.packet, nil
		}
	}
}

// block reads one block: its type, length, body, and the length again.
func (s *section) block() error {
	var head [8]byte
	if _, err := io.ReadFull(s.in, head[:]); errors.Is(err, io.EOF) {
		return io.EOF
	} else if err != nil {
		return cut(err)
	}
	if binary.BigEndian.Uint32(head[:]) == sectionHeader {
		magic, err := s.in.Peek(4)
		if err != nil {
			return cut(err)
		}
		switch uint32(byteOrder) {
		case binary.LittleEndian.Uint32(magic):
			s.order = binary.LittleEndian
		case binary.BigEndian.Uint32(magic):
			s.order = binary.BigEndian
		default:
			return errors.New("a section in an unknown byte order")
		}
		s.devices = nil
	}
	kind, length := s.order.Uint32(head[:]), s.order.Uint32(head[4:])
	if length < 12 || length%4 != 0 {
		return fmt.Errorf("a block of %d bytes", length)
	}
	switch kind {
	case sectionHeader, blockInterface, blockOldPacket, blockSimple, blockPacket:
	default:
		// Blocks we pass over may be as long as they like.
		if _, err := io.CopyN(io.Discard, s.in, int64(length)-8); err != nil {
			return cut(err)
		}
		return nil
	}
	if length > maxBlock {
		return fmt.Errorf("a block of %d bytes; no more than %d are read", length, maxBlock)
	}
	body := make([]byte, length-8)
	if _, err := io.ReadFull(s.in, body); err != nil {
		return cut(err)
	}
	if again := s.order.Uint32(body[len(body)-4:]); again != length {
		return fmt.Errorf("a block has the lengths %d and %d", length, again)
	}
	body = body[:len(body)-4]
	switch kind {
	case blockInterface:
		return s.device(body)
	case blockPacket:
		return s.full(body, 20, 4)
	case blockOldPacket:
		return s.full(body, 20, 2)
	case blockSimple:
		return s.simple(body)
	}
	return nil
}

var errShort = errors.New("a block is too short for its type")

func (s *section) device(b []byte) error {
	if len(b) < 8 {
		return errShort
	}
	if len(s.devices) == maxInterfaces {
		return fmt.Errorf("more than %d interfaces", maxInterfaces)
	}
	d := device{link: s.order.Uint16(b), snap: s.order.Uint32(b[4:]), unit: 1e-6}
	for b = b[8:]; len(b) >= 4; {
		code, n := s.order.Uint16(b), int(s.order.Uint16(b[2:]))
		if b = b[4:]; code == 0 || n > len(b) {
			break
		}
		switch {
		case code == 9 && n >= 1 && b[0]&0x80 == 0: // if_tsresol
			d.unit = math.Pow(10, -float64(b[0]))
		case code == 9 && n >= 1:
			d.unit = math.Pow(2, -float64(b[0]&0x7f))
		case code == 14 && n >= 8: // if_tsoffset
			d.offset = int64(s.order.Uint64(b))
		}
		b = b[min(len(b), (n+3)&^3):]
	}
	s.devices = append(s.devices, d)
	return nil
}

// full reads a block with head bytes before the data; the first of them tell,
// in size bytes, its interface.
func (s *section) full(b []byte, head, size int) error {
	if len(b) < head {
		return errShort
	}
	index := s.order.Uint32(b)
	if size == 2 {
		index = uint32(s.order.Uint16(b))
	}
	if uint64(index) >= uint64(len(s.devices)) {
		return fmt.Errorf("a packet of interface %d, which the file does not describe", index)
	}
	d := s.devices[index]
	ticks := uint64(s.order.Uint32(b[4:]))<<32 | uint64(s.order.Uint32(b[8:]))
	return s.add(d, d.time(ticks), b[head:], s.order.Uint32(b[12:]), s.order.Uint32(b[16:]))
}

func (s *section) simple(b []byte) error {
	if len(b) < 4 {
		return errShort
	}
	if len(s.devices) == 0 {
		return errors.New("a packet before any interface")
	}
	d, wire := s.devices[0], s.order.Uint32(b)
	length := min(wire, uint32(len(b)-4))
	if d.snap != 0 {
		length = min(length, d.snap)
	}
	return s.add(d, time.Time{}, b[4:], length, wire)
}

func (s *section) add(d device, t time.Time, data []byte, length, wire uint32) error {
	if d.link != Ethernet {
		return fmt.Errorf("link type %d is not Ethernet (%d)", d.link, Ethernet)
	}
	if uint64(length) > uint64(len(data)) || length > maxPacket {
		return fmt.Errorf("a packet of %d bytes in a block with place for %d", length, len(data))
	}
	s.packet = &Packet{Time: t, Data: data[:length:length], Length: max(int(length), int(min(wire, maxPacket)))}
	return nil
}

// time is when so many units of the interface's clock have passed.
func (d device) time(ticks uint64) time.Time {
	whole, unit := uint64(0), uint64(math.Round(1/d.unit))
	rest := ticks
	if unit > 0 {
		whole, rest = ticks/unit, ticks%unit
	}
	return time.Unix(int64(whole)+d.offset, int64(float64(rest)*d.unit*1e9+0.5)).UTC()
}
