"""Files of torch.save: read without torch, and nothing in them is ever run."""

import base64
import os
import pickle
import zipfile
import zlib

import ml_dtypes
import numpy as np
import pytest

from jaxlib_guidance.files import CorruptFileError, load_torch

# What torch 2.13 wrote for {"state_dict": ..., "epoch": 3}: the state of a dense layer
# and a batch normalisation, some tensors of other types or views; base 85 of zlib.
WRITTEN = (
    "c-qC5&2Jk;7{<qT?AV*6kdhLYmO={@2U^GLZ-*vvO)-"
    "TnZ7>3@a#^kIt#?)1n|F7diVsVXPzt?)gb)XW;BV-m967;-O9k92fdmpC7ybbb%*Wc^-"
    "PDQPA~EvV+K=b=JTp7<dN-ud6hhG`+S3FSM|ioZVl}yStzE4wpv`-"
    "<onRkOLKcX?#wym7rqRF<Xf(`rTWes$?ApQ=tEpL9^8&ddKyaxBp@d8gQ_1U^(b6$YHLz(l^rX_mM%"
    "xw?ORM*cc2mJx*ETI>J1sysk&vgEiD{`V4I*43RNJPC-{2<&n3e;S3sE^lej8goh)EF)!s`-"
    "}LQ?Ps%t%2ga06y<>NLk3hC?-"
    "YNRF^Dbwjn`VVyYX1Nud^eRT+*XK)b?>oF;W;SmPig#{_F3r9HcQ4EVUh_lg&gV7!JAS*1fm>*&vW7"
    "sqt(^=Nz4)$>=xC<vZ_6ZD6*5D+|De|1B#!T6kYN;I!YnA{{abKNJN(P?hxu0<iPSf1aa)Sg0^8MV0"
    "?BMwi;7kq9%7>Vn)$4YRZcFKCY8R3oWEPe=GUXseicE8421B+6IeE@Q*;XycdmuR|a7fXClqh6{Lte"
    "met_G{}5eDh@I!ax|4PCPpY^jZFS`*ehlY7bRwuTeC&iHvK6Mg{0dBR^>;@k>`7i(~#*N2zn7`cgz4"
    "y$yjLzP{BIU&<602ll43R`yDnq`x<46jN7+gW2$A1>*`V-"
    "a5K!)0<Dw0m}44wF;bmf6tZiWKT4H>Bz4H$VKCI8Bx%?Hglv-"
    "8?!*c3twSX?0YrIJVWw;ypJXX(C16{`>CxGz9JA(F<smqMaS2sBNRw?Py(Gt(3;m4{rG^4X}P4{tOa"
    "};JyK7P?!X$zl}AMR)lILfHvC(#%+x<c2|ErN*8!!Uq%#7IaO&nRjmxp?yQrqGWn3cL;9CxN?iQt_m"
    "AV`Li_+?dO#GbmE?p|K>+6vbNlWe^RJ2Wr+I#oy<9HulzHY`Cx2O)C1+<3psWojnQCR_{vY2apF7^E"
    "|0kE<yE~D8_CftejryD4{`Brd{<;5o{Q3W8{M6g{`IHuA^!>bJ=sfWrR)*CFFefb|Q0F^ewB9^;|He"
    "^~77#XUTeA#OLEcg6U%X;8tCj411xe+LrChp{%V!J4TsoD{<qAbHpUM<drEF2mrP8Hzp^(X>Xv*Jie"
    "!rF=IT9>oAjqDClha*Yg+0kf?=gOzyL8TbG}|Gxw-Wp1?!vd=k>BC+J=NAvaF@Lq51}@N+~v|QbXPa"
    ";!}@dz4Qr%d<*rg*)gL33=vTR`l2`Rsc&JMIRqnmyRee5EW&A341@NklM~15G1YRRm&aZOsIG@+_P?"
    "h(q+`A>_QGLc#W7dj$`Nlo6!%;MLV{J&0$QkFp6QQ$1&7AL-"
    "Ekn}2jt&Y+gub|-ubf52-wnbMu9;)^^LzgVX9I<G"
)


@pytest.fixture
def made(tmp_path, write_torch):
    """A file with views, types and other things than tensors."""
    write, tensor = write_torch
    numbers = np.arange(12, dtype=np.float32)
    path = tmp_path / "model.pt"
    tree = {
        "model": {
            "whole": tensor("Float", "0", 12, 0, (3, 4), (4, 1)),
            "turned": tensor("Float", "0", 12, 0, (4, 3), (1, 4)),
            "part": tensor("Float", "0", 12, 5, (2, 2), (4, 1)),
            "one": tensor("Float", "0", 12, 11, (), ()),
            "none": tensor("Float", "0", 12, 0, (0, 4), (4, 1)),
        },
        "half": tensor("BFloat16", "1", 2, 0, (2,), (1,)),
        "step": 7,
        "betas": [1, "x", None, True],
    }
    half = np.array([1.5, -2], ml_dtypes.bfloat16)
    write(path, tree, {"0": numbers.tobytes(), "1": half.tobytes()})
    return path, numbers, half


def test_tensors_are_views_of_the_file_by_their_joined_names(made):
    path, numbers, half = made
    tensors, rest = load_torch(path)
    whole = numbers.reshape(3, 4)
    want = {
        "model.whole": whole,
        "model.turned": whole.T,
        "model.part": whole[1:, 1:3],
        "model.one": numbers[11],
        "model.none": whole[:0],
        "half": half,
    }
    assert list(tensors) == list(want)
    for name, value in want.items():
        assert tensors[name].dtype == value.dtype
        assert name == "model.none" or not tensors[name].flags.owndata
        np.testing.assert_array_equal(tensors[name], value)
    with pytest.raises(ValueError, match="read-only"):
        tensors["half"][0] = 0
    names = [f"betas.{i}" for i in range(4)]
    assert rest == {"step": 7} | dict(zip(names, (1, "x", None, True), strict=True))


def test_a_file_of_torch_itself(tmp_path):
    path = tmp_path / "state.pt"
    path.write_bytes(zlib.decompress(base64.b85decode(WRITTEN)))
    tensors, rest = load_torch(path)
    assert rest == {"epoch": 3}
    want = {
        "0.weight": np.arange(6, dtype=np.float32).reshape(3, 2),
        "0.bias": np.arange(3, dtype=np.float16),
        "1.weight": np.array([0, 2, 4], ml_dtypes.bfloat16),
        "1.bias": np.ones(3, np.float32),
        "1.running_mean": np.zeros(3, np.float32),
        "1.running_var": np.ones(3, np.float32),
        "1.num_batches_tracked": np.array(0),
    }
    assert list(tensors) == [f"state_dict.{name}" for name in want]
    for name, value in want.items():
        assert tensors[f"state_dict.{name}"].dtype == value.dtype
        np.testing.assert_array_equal(tensors[f"state_dict.{name}"], value)


BEYOND = {
    "past the end": (5, (2, 4), (4, 1)),
    "a row that leaves": (0, (3, 4), (5, 1)),
    "before the start": (-1, (2,), (1,)),
    "backwards": (11, (2,), (-1,)),
    "without end": (0, (2**31 - 1, 2), (0, 1)),
    "of two ranks": (0, (3, 4), (4,)),
    "of a truth": (True, (3,), (1,)),
}


@pytest.mark.parametrize("case", BEYOND)
def test_a_tensor_stays_within_its_storage(tmp_path, write_torch, case):
    write, tensor = write_torch
    write(
        tmp_path / "x.pt",
        {"a": tensor("Float", "0", 12, *BEYOND[case])},
        {"0": b"x" * 48},
    )
    with pytest.raises(CorruptFileError, match="x.pt: "):
        load_torch(tmp_path / "x.pt")


class Command:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.system, (f"touch {self.folder}/seen",)


@pytest.mark.parametrize("protocol", range(6))
def test_a_hostile_pickle_is_refused_and_nothing_runs(tmp_path, write_torch, protocol):
    program = pickle.dumps({"a": Command(tmp_path)}, protocol)
    write_torch[0](tmp_path / "x.pt", {}, {}, program=program)
    with pytest.raises(CorruptFileError, match="x.pt: (it calls|a pickle with)"):
        load_torch(tmp_path / "x.pt")
    assert not (tmp_path / "seen").exists()


def test_what_is_no_dict_of_tensors_is_refused_by_its_reason(tmp_path, write_torch):
    write, tensor = write_torch
    path = tmp_path / "x.pt"

    def refused(words, tree, storages=None, **options):
        write(path, tree, storages or {}, **options)
        with pytest.raises(CorruptFileError, match=words):
            load_torch(path)

    one = tensor("Float", "0", 2, 0, (2,), (1,))
    refused("no such file", {"a": one})
    refused("should be 2 of float32; there is 7 bytes", {"a": one}, {"0": b"x" * 7})
    refused("ComplexFloat", {"a": tensor("ComplexFloat", "0", 2, 0, (2,), (1,))})
    refused("byte order is b'big'", {}, order=b"big")
    refused("one int; expected a dict", 7)
    refused("'1.a' is there twice", {1: {"a": 0}, "1": {"a": 0}})
    refused("a key is True", {True: 0})
    refused("'f' is a Global", {"f": b"cos\nsystem\n"})
    refused("too few values", {}, program=b"\x80\x02\x85.")
    refused("pickle is damaged", {}, program=b"\x80\x02}")
    circle = b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s."
    refused("a circle, or too deep", {}, program=circle)
    deep = {}
    for _ in range(40):
        deep = {"a": deep}
    refused("a circle, or too deep", deep)
    # Each dict has the one before it twice: 2^24 names from a few hundred bytes.
    doubled = b"".join(
        b"}q%c(X\x01\x00\x00\x00ah%cX\x01\x00\x00\x00bh%cu" % (i, i - 1, i - 1)
        for i in range(1, 25)
    )
    refused("a circle, or too deep", {}, program=b"\x80\x02(]q\x00" + doubled + b"t.")


def test_other_files_are_refused_with_advice(tmp_path, made):
    path = tmp_path / "old.bin"
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2))
    with pytest.raises(CorruptFileError, match="since 1.6.*save it as safetensors"):
        load_torch(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\x80\x02}.")
    with pytest.raises(CorruptFileError, match="is compressed"):
        load_torch(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model/config.json", b"{}")
    with pytest.raises(CorruptFileError, match="0 files data.pkl"):
        load_torch(path)
    path.write_bytes(made[0].read_bytes()[:-30])
    with pytest.raises(CorruptFileError, match="not a whole zip"):
        load_torch(path)
    with pytest.raises(FileNotFoundError):
        load_torch(tmp_path / "absent.pt")
