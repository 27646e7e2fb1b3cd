package nft

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/weirmesh/weir/capture"
)

// ErrNone says that the kernel has no nf_tables at all.
var ErrNone = errors.New("this kernel has no nf_tables (CONFIG_NF_TABLES, module nf_tables)")

// errRight is what is wrong nearly always.
var errRight = errors.New("the capability NET_ADMIN is missing: add it to the container's securityContext.capabilities and run it as user 0")

// explain adds to what the kernel said what can be done about it.
func explain(err error, r capture.Ruleset) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: %w", err, errRight)
	// No netlink for netfilter; no nf_tables behind it, asked with one message and in a batch.
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EINVAL) && !present(), errors.Is(err, unix.EOPNOTSUPP) && !present():
		return fmt.Errorf("%w: %w", err, ErrNone)
	}
	if lacking := missing(r, try); len(lacking) > 0 {
		return fmt.Errorf("%w: this kernel lacks %s", err, strings.Join(lacking, ", "))
	}
	return err
}

// present reports whether there is an nf_tables to talk to.
func present() bool {
	c, err := nftables.New()
	if err != nil {
		return false
	}
	_, err = c.ListTablesOfFamily(nftables.TableFamilyINet)
	return err == nil
}

// missing names the kernel features that r needs and try does not find: chain types
// first, then, each in the chain it stands in, statements.
func missing(r capture.Ruleset, try func(capture.Chain) error) []string {
	var out []string
	seen := map[string]bool{}
	check := func(feature string, c capture.Chain) bool {
		if feature == "" || seen[feature] {
			return true
		}
		seen[feature] = true
		if try(c) == nil {
			return true
		}
		out = append(out, feature)
		return false
	}
	for _, c := range r.Chains {
		empty := c
		empty.Rules = nil
		if !check(chainFeature(c.Type), empty) {
			continue // its statements cannot be tried
		}
		for _, rule := range c.Rules {
			for _, s := range rule {
				one := c
				one.Rules = []capture.Rule{{s}}
				check(feature(s), one)
			}
		}
	}
	return out
}

// try writes a chain into a table of its own and removes it, in one transaction.
func try(ch capture.Chain) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := c.AddTable(&nftables.Table{Name: capture.Table + "-probe", Family: nftables.TableFamilyINet})
	if err := addChain(c, t, ch); err != nil {
		return err
	}
	c.DelTable(t)
	return c.Flush()
}

func chainFeature(t capture.ChainType) string {
	switch t {
	case capture.NAT:
		return "NAT chains of family inet (Linux 5.2, CONFIG_NFT_NAT, module nft_chain_nat)"
	case capture.Route:
		return "route chains of family inet (Linux 5.2, CONFIG_NF_TABLES_INET)"
	}
	return "chains of family inet (CONFIG_NF_TABLES_INET)"
}

// feature is what a statement needs beyond nf_tables itself.
func feature(s capture.Statement) string {
	switch s.(type) {
	case capture.RedirectTo:
		return "redirection (CONFIG_NFT_REDIR, module nft_redir)"
	case capture.TProxyTo:
		return "transparent proxying (CONFIG_NFT_TPROXY, module nft_tproxy)"
	case capture.ConnMark, capture.SaveMark, capture.Reply, capture.Invalid:
		return "connection tracking in rules (CONFIG_NFT_CT, module nft_ct)"
	case capture.Reset:
		return "refusing with a reset (CONFIG_NFT_REJECT_INET, module nft_reject_inet)"
	}
	return ""
}
