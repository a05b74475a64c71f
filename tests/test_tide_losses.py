"""TIDE's losses by hand, and what reaches whom in them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tide_parts import TINY, drawn

from cellfuse.nn.codebook import Codebook, distillation_loss
from cellfuse.nn.contrastive import clip_loss
from cellfuse.nn.response import ResponseNetwork
from cellfuse.nn.tide import FlatEncoder, TideNetwork

# -- the losses -----------------------------------------------------------------------------------


def network(**given) -> TideNetwork:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        made = TideNetwork(
            FlatEncoder(5, width=6, hidden=4),
            ResponseNetwork(7, 12, TINY),
            Codebook((drawn(3, 12) > 0).float(), width=4, hidden=8),
            n_channels=5,
            hidden=8,
            **given,
        )
        # Away from the identity, so that a dose that is told changes something.
        for film in (made.dose, made.response.take_dose):
            film.mlp[-1].weight.data.normal_()
    return made


def inputs(seed=0):
    dose = torch.tensor([0.1, 1.0, 10.0, 0.0])
    return {
        "images": drawn(4, 5, seed=seed),
        "image_dose": dose,
        "rna": drawn(4, 7, seed=seed + 1),
        "basal": drawn(4, 7, seed=seed + 2),
        "rna_dose": dose.flip(0),
        "drug": torch.tensor([0, 2, 1, 1]),
    }


def test_the_loss_is_the_one_worked_out_by_hand():
    net, given = network(alpha=0.7), inputs()
    found = net(**given)
    h = net.image.mlp(given["images"])
    gamma, beta = net.dose.mlp((given["image_dose"] + 1e-3).log10()[:, None]).chunk(2, 1)
    h_i = h * (1 + gamma) + beta
    h_r, h_c = net.response.effect_and_state(given["rna"], given["basal"], given["rna_dose"])
    parts = [F.layer_norm(x, x.shape[1:]) for x in (h_i, h_r, h_c)]
    h_t = net.fuse[2](F.gelu(net.fuse[0](torch.cat(parts, 1))))
    h_s = net.student[2](F.gelu(net.student[0](h)))
    v = net.codebook()
    p_t = (h_t @ v.T / (0.1 * h_t.norm(dim=1, keepdim=True))).softmax(1)
    p_s = (h_s @ v.T / (0.1 * h_s.norm(dim=1, keepdim=True))).softmax(1)
    distill = (p_t * (p_t / p_s).log()).sum(1).mean()
    label = -p_t[torch.arange(4), given["drug"]].log().mean()
    torch.testing.assert_close(found["distillation_loss"], distill, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["teacher_loss"], label, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["loss"], distill + 0.7 * label, rtol=1e-4, atol=1e-5)
    right = (p_t.argmax(1) == given["drug"]).float().mean()
    torch.testing.assert_close(found["teacher_accuracy"], right)


def test_distillation_teaches_the_student_and_not_the_teacher():
    net = network()
    net(**inputs())["distillation_loss"].backward()
    teacher = [*net.fuse.parameters(), *net.norms.parameters(), *net.dose.parameters()]
    assert all(p.grad is None or (p.grad == 0).all() for p in teacher)
    assert all(p.grad is None for p in net.response.parameters())
    for taught in (net.student, net.image, net.codebook):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in taught.parameters())


def test_the_labels_teach_the_teacher_and_not_the_students_head():
    net = network()
    net(**inputs())["teacher_loss"].backward()
    assert all(p.grad is None for p in net.student.parameters())
    assert net.fuse[0].weight.grad.abs().sum() > 0
    assert net.dose.mlp[-1].weight.grad.abs().sum() > 0
    assert net.codebook.delta.grad.abs().sum() > 0


def test_no_structure_of_a_drug_reaches_the_teacher():
    net, given = network(), inputs()

    def teach():
        h_r, h_c = net.transcriptome(given["rna"], given["basal"], given["rna_dose"])
        return net.teach(net.features(given["images"]), given["image_dose"], h_r, h_c)

    before = teach()
    net.codebook.fingerprints.zero_()
    net.codebook.delta.data += 1
    torch.testing.assert_close(teach(), before)


@pytest.mark.parametrize("dose", ["image_dose", "rna_dose"])
def test_doses_reach_the_teacher_unless_they_are_left_out(dose):
    given = inputs()
    other = {**given, dose: given[dose] + 3}
    with torch.no_grad():
        told, kept = network(), network(use_dose=False)
        assert told(**other)["teacher_loss"] != told(**given)["teacher_loss"]
        assert kept(**other)["teacher_loss"] == kept(**given)["teacher_loss"]


def test_the_baselines_are_clips_loss_against_prototypes_and_against_rna():
    given = inputs()
    same = (given["drug"][:, None] == given["drug"]).float()
    net = network(objective="drug")
    student = net.student(net.features(given["images"]))
    by_hand = clip_loss(student, net.codebook()[given["drug"]], 10.0, weight=same)
    torch.testing.assert_close(net(**given)["loss"], by_hand)
    net = network(objective="rna")
    student = net.student(net.features(given["images"]))
    h_r, _ = net.transcriptome(given["rna"], given["basal"], given["rna_dose"])
    by_hand = clip_loss(student, net.rna_head(h_r), 10.0, weight=same)
    torch.testing.assert_close(net(**given)["loss"], by_hand)


def test_without_loss_where_student_and_teacher_agree():
    p = drawn(3, 4).log_softmax(1)
    assert distillation_loss(p, p) == pytest.approx(0, abs=1e-6)
