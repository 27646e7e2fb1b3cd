package nft

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/weirmesh/weir/capture"
)

// expressions is the kernel's form of a statement: small programs over registers, of
// which register 1 is enough here. Marks and ids are in host byte order, ports and
// addresses in network byte order.
func expressions(s capture.Statement) ([]expr.Any, error) {
	switch s := s.(type) {
	case capture.OutIface:
		return meta(expr.MetaKeyOIFNAME, ifname(string(s))), nil
	case capture.InIface:
		return meta(expr.MetaKeyIIFNAME, ifname(string(s))), nil
	case capture.Source:
		return address(netip.Prefix(s), sourceField, expr.CmpOpEq), nil
	case capture.Destination:
		op := expr.CmpOpEq
		if s.Not {
			op = expr.CmpOpNeq
		}
		return address(s.Prefix, destinationField, op), nil
	case capture.Protocol:
		return meta(expr.MetaKeyL4PROTO, []byte{byte(s)}), nil
	case capture.Port:
		return append(meta(expr.MetaKeyL4PROTO, []byte{byte(s.Protocol)}),
			// TCP and UDP headers both begin with source and destination port.
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			equal(network16(s.Port))), nil
	case capture.Mark:
		return meta(expr.MetaKeyMARK, host32(uint32(s))), nil
	case capture.ConnMark:
		return []expr.Any{&expr.Ct{Register: 1, Key: expr.CtKeyMARK}, equal(host32(uint32(s)))}, nil
	case capture.OwnerUID:
		return meta(expr.MetaKeySKUID, host32(uint32(s))), nil
	case capture.OwnerGID:
		return meta(expr.MetaKeySKGID, host32(uint32(s))), nil
	case capture.OwnerGIDNot:
		return []expr.Any{&expr.Meta{Key: expr.MetaKeySKGID, Register: 1}, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: host32(uint32(s))}}, nil
	case capture.Reply:
		return []expr.Any{&expr.Ct{Register: 1, Key: expr.CtKeyDIRECTION}, equal([]byte{1})}, nil // IP_CT_DIR_REPLY
	case capture.Invalid:
		// NF_CT_STATE_INVALID_BIT of a set of states.
		return []expr.Any{&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: host32(expr.CtStateBitINVALID), Xor: host32(0)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: host32(0)}}, nil

	case capture.SetMark:
		return []expr.Any{immediate(host32(uint32(s))), &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1}}, nil
	case capture.SaveMark:
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, &expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: 1}}, nil
	case capture.RedirectTo:
		return []expr.Any{immediate(network16(uint16(s))),
			// NF_NAT_RANGE_PROTO_SPECIFIED: the range holds a port.
			&expr.Redir{RegisterProtoMin: 1, Flags: unix.NF_NAT_RANGE_PROTO_SPECIFIED}}, nil
	case capture.TProxyTo:
		return []expr.Any{immediate(network16(uint16(s))), &expr.TProxy{Family: unix.NFPROTO_UNSPEC, RegPort: 1}}, nil
	case capture.Return:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}, nil
	case capture.Accept:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}, nil
	case capture.Drop:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}, nil
	case capture.Reset:
		return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}, nil
	}
	return nil, fmt.Errorf("statement %T has no netlink form", s)
}

func meta(key expr.MetaKey, want []byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, equal(want)}
}

func equal(want []byte) *expr.Cmp { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: want} }

func immediate(b []byte) *expr.Immediate { return &expr.Immediate{Register: 1, Data: b} }

// ifname pads to IFNAMSIZ: comparing fewer bytes would be a prefix match ("lo*").
func ifname(s string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, s)
	return b
}

func host32(v uint32) []byte    { return binary.NativeEndian.AppendUint32(nil, v) }
func network16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }

// Offsets of the addresses in the IPv4 (RFC 791) and IPv6 (RFC 8200) headers.
type field struct{ v4, v6 uint32 }

var (
	sourceField      = field{12, 8}
	destinationField = field{16, 24}
)

func address(p netip.Prefix, f field, op expr.CmpOp) []expr.Any {
	proto, offset := byte(unix.NFPROTO_IPV4), f.v4
	if p.Addr().Is6() {
		proto, offset = unix.NFPROTO_IPV6, f.v6
	}
	size := uint32(p.Addr().BitLen() / 8)
	out := append(meta(expr.MetaKeyNFPROTO, []byte{proto}),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size})
	if !p.IsSingleIP() {
		out = append(out, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size,
			Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()), Xor: make([]byte, size)})
	}
	return append(out, &expr.Cmp{Op: op, Register: 1, Data: p.Masked().Addr().AsSlice()})
}
