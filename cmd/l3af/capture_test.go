package main

import (
	"fmt"
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
// others; with one argument it prints what is in a file.
func capture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 || len(args) == 2 {
		ts.Fatalf("usage: capture FILE [FROM TO…]")
	}
	name := ts.MkAbs(args[0])
	if len(args) == 1 {
		f, err := os.Open(name)
		ts.Check(err)
		defer f.Close()
		packets, err := pcap.Read(f)
		ts.Check(err)
		for _, p := range packets {
			fmt.Fprintln(ts.Stdout(), p.Time.Format(time.TimeOnly), packet.Describe(p.Data))
		}
		return
	}
	var packets []pcap.Packet
	for _, to := range args[2:] {
		to, times, more := strings.Cut(to, "*")
		n := 1
		if more {
			var err error
			n, err = strconv.Atoi(times)
			ts.Check(err)
		}
		data := packet.UDP(netip.MustParseAddrPort(args[1]), netip.MustParseAddrPort(to), []byte("l3af"))
		for range n {
			packets = append(packets, pcap.Packet{Time: time.Unix(int64(len(packets)), 0), Data: data})
		}
	}
	f, err := os.Create(name)
	ts.Check(err)
	ts.Check(pcap.Write(f, packets))
	ts.Check(f.Close())
}
