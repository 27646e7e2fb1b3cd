package ca

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"time"
)

// Headers of a root in what a handover remembers: since when certificates bring it, and until when one may need it. Of the
// root that signs that is not known before it has ended: Lives is the longest life that may have been granted, until Lapses if it is less by now.
const (
	headerSince  = "Since"
	headerNeeded = "Needed-Until"
	headerLives  = "Signs-For"
	headerLapses = "Signs-For-Until"
)

// maxRemembered bounds what is read. Each change of root adds one, for a day or as long as certificates live.
const maxRemembered = 256

// remember writes what the next process has to know; nothing of it is secret, but who could write it could add a root.
func (h *handover) remember() []byte {
	var out []byte
	for _, t := range h.trusted {
		headers := map[string]string{}
		if !t.since.IsZero() {
			headers[headerSince] = t.since.UTC().Format(time.RFC3339)
		}
		if t.root.Equal(h.held.root) {
			headers[headerLives] = h.longest.String()
			if !h.lapses.IsZero() {
				headers[headerLapses] = h.lapses.UTC().Format(time.RFC3339)
			}
		} else if !t.needed.IsZero() {
			headers[headerNeeded] = t.needed.UTC().Format(time.RFC3339)
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Headers: headers, Bytes: t.root.Raw})...)
	}
	return out
}

// recall reads what was remembered, before the first step at now. What cannot be read is an error, and nothing is recalled.
func (h *handover) recall(text []byte, now time.Time) error {
	var before []trust
	var longest time.Duration
	var lapses time.Time
	signs := -1
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if len(before) == maxRemembered {
			return fmt.Errorf("more than %d roots", maxRemembered)
		}
		root, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return err
		}
		t := trust{root: root}
		for header, at := range map[string]*time.Time{headerSince: &t.since, headerNeeded: &t.needed, headerLapses: &lapses} {
			if v := block.Headers[header]; v != "" {
				if *at, err = time.Parse(time.RFC3339, v); err != nil {
					return err
				}
			}
		}
		if v := block.Headers[headerLives]; v != "" {
			if longest, err = time.ParseDuration(v); err != nil {
				return err
			}
			signs = len(before)
		}
		before = append(before, t)
	}
	if signs >= 0 { // until a moment ago, for all that is known
		before[signs].needed = earlier(now.Add(longest+settle), before[signs].root.NotAfter)
	}
	h.trusted, h.longest, h.lapses = before, longest, lapses
	return nil
}

// begin brings the first authority into force. Roots of before that a certificate may need stay beside its own: whoever made
// way for this process, by a restart or as another replica, has signed by them.
func (h *handover) begin(now time.Time, asked *Authority) (c change, err error) {
	h.grant(now, asked.o.MaxTTL)
	roots := asked.bundle.Roots()
	var trusted []trust
	for _, r := range roots {
		t := trust{root: r} // what was before is not known
		if i := slices.IndexFunc(h.trusted, func(t trust) bool { return t.root.Equal(r) }); i >= 0 {
			t = h.trusted[i]
		}
		trusted = append(trusted, t)
	}
	for _, t := range h.trusted {
		if slices.ContainsFunc(roots, t.root.Equal) || asked.distrusts(t.root) || !now.Before(t.needed) {
			continue
		}
		roots, trusted = append(roots, t.root), append(trusted, t)
		c.stays(t)
	}
	if c.held, err = asked.under(roots); err == nil {
		h.held, h.trusted = c.held, trusted
	}
	return c, err
}

// stays says that a root is trusted that is not asked for.
func (c *change) stays(t trust) {
	c.soon(t.needed)
	c.notes = append(c.notes, fmt.Sprintf("root %s is left out and stays trusted until %s: certificates in use lead to it", name(t.root), t.needed.UTC().Format(time.RFC3339)))
}

func (c *change) soon(t time.Time) {
	if c.next.IsZero() || t.Before(c.next) {
		c.next = t
	}
}

// distrusts reports whether the operator asked to cut off a root at once.
func (a *Authority) distrusts(root *x509.Certificate) bool {
	return slices.ContainsFunc(a.distrusted, root.Equal)
}
