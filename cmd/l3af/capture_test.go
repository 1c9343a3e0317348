package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"l3af/internal/packet"
	"l3af/internal/pcap"
)

// capture writes a pcap file with a UDP packet from an address to each of
// others, ADDRESS*TIMES or ADDRESS*TIMES*BYTES for more and larger ones; with one
// argument it prints what is in a file.
func capture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 || len(args) == 2 {
		ts.Fatalf("usage: capture FILE [FROM TO…]")
	}
	name := ts.MkAbs(args[0])
	if len(args) == 1 {
		f, err := os.Open(name)
		ts.Check(err)
		defer f.Close()
		in, err := pcap.NewReader(f)
		ts.Check(err)
		for {
			p, err := in.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			ts.Check(err)
			fmt.Fprintln(ts.Stdout(), p.Time.Format(time.TimeOnly), packet.Describe(p.Data))
		}
	}
	f, err := os.Create(name)
	ts.Check(err)
	out, err := pcap.NewWriter(f)
	ts.Check(err)
	count := int64(0)
	for _, to := range args[2:] {
		to, times, more := strings.Cut(to, "*")
		times, size, sized := strings.Cut(times, "*")
		n, payload := 1, []byte("l3af")
		if more {
			var err error
			n, err = strconv.Atoi(times)
			ts.Check(err)
		}
		if sized {
			bytes, err := strconv.Atoi(size)
			ts.Check(err)
			payload = make([]byte, bytes)
		}
		data := packet.UDP(netip.MustParseAddrPort(args[1]), netip.MustParseAddrPort(to), payload)
		for range n {
			ts.Check(out.Write(pcap.Packet{Time: time.Unix(count, 0), Data: data}))
			count++
		}
	}
	ts.Check(out.Flush())
	ts.Check(f.Close())
}
