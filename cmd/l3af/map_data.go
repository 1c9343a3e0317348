package main

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"l3af/internal/entries"
)

const (
	dataHelp = `DATA is either all bytes, one number each (after the
word hex all in hex), or one value as documents have it, typed by the map's BTF:
10.0.0.0/8, 80, '{ip: 10.0.0.1, port: 80}', drop.`
	dataHint = "all bytes as numbers, hex and all bytes in hex, or one typed value"
)

// entryData is what the words of a verb say of an entry.
type entryData struct {
	key, value []byte // value: for one CPU; of maps of maps and programs, a descriptor
	flags      uint64
	close      func()
}

// wants are parts of an entry that a verb needs.
type wants int

const (
	wantKey wants = 1 << iota
	wantValue
	wantFlags // may stand at the end
)

// data takes "key DATA", "value DATA" and flags in any order, and nothing else.
func (c *call) data(m *entries.Map, want wants) (*entryData, error) {
	d := &entryData{close: func() {}}
	if m.Keyless() {
		want &^= wantKey
	}
	people, err := m.People()
	if err != nil {
		return nil, err
	}
	flag := false
	for c.peek() != "" {
		switch {
		case want&wantKey != 0 && d.key == nil && c.take("key"):
			d.key, err = c.bytes("key", int(m.Info.KeySize), people.Key)
		case want&wantValue != 0 && d.value == nil && c.take("value"):
			if m.OfMaps() || m.OfPrograms() {
				err = c.descriptor(m, d)
			} else {
				d.value, err = c.bytes("value", int(m.Info.ValueSize), people.Value)
			}
		case want&wantFlags != 0 && !flag && c.take("any"):
			flag = true
		case want&wantFlags != 0 && !flag && c.take("noexist"):
			d.flags, flag = unix.BPF_NOEXIST, true
		case want&wantFlags != 0 && !flag && c.take("exist"):
			d.flags, flag = unix.BPF_EXIST, true
		default:
			err = c.end()
			if m.Keyless() && abbreviates(c.peek(), "key") {
				err = &usageError{what: fmt.Sprintf("%s has no keys", m)}
			}
		}
		if err != nil {
			d.close()
			return nil, err
		}
	}
	for _, w := range []struct {
		want wants
		is   bool
		name string
	}{{wantKey, d.key != nil, "key"}, {wantValue, d.value != nil, "value"}} {
		if want&w.want != 0 && !w.is {
			d.close()
			return nil, &usageError{what: "no " + w.name, hint: w.name + " " + dataHint}
		}
	}
	return d, nil
}

// bytes takes DATA.
func (c *call) bytes(what string, size int, people func(string) ([]byte, error)) ([]byte, error) {
	b, took, ok, err := entries.Bytes(c.words, size)
	if err == nil && !ok {
		took = 1
		var word string
		if word = c.peek(); word == "" {
			return nil, &usageError{what: "no bytes for the " + what}
		}
		b, err = people(word)
	}
	if err != nil {
		return nil, &usageError{what: what + ": " + err.Error(), hint: dataHint}
	}
	c.words = c.words[took:]
	return b, nil
}

// descriptor takes the map or program that is the value of an entry.
func (c *call) descriptor(m *entries.Map, d *entryData) error {
	if m.OfMaps() {
		maps, err := c.selectMaps()
		if err != nil {
			return err
		}
		d.close = func() { closeAll(maps) }
		if len(maps) > 1 {
			return errors.New("value: several maps have that name")
		}
		d.value = number32(maps[0].FD())
		return nil
	}
	programs, err := c.selectPrograms()
	if err != nil {
		return err
	}
	d.close = func() { closeAll(programs) }
	if len(programs) > 1 {
		return errors.New("value: several programs are meant")
	}
	d.value = number32(programs[0].FD())
	return nil
}
